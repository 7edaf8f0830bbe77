"""Reading what models write: the five steps, the answer, and why a text has none.

Nothing here raises on any text: a bad completion is data, and its reason is counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from msrrec.reasoning.prompts import (
    STEPS,
    AnswerFormat,
    Side,
    render_instruction,
    render_plain_instruction,
)
from msrrec.reasoning.titles import (
    REASONING_END,
    REASONING_START,
    find_titles,
    fold_text,
    match_title,
    normalize_title,
    strip_number,
)

Reason = Literal["empty", "malformed", "incomplete", "not_a_candidate", "ambiguous"]

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_THINK_END = re.compile(r"</think>", re.IGNORECASE)  # some templates give the model the opening tag
_DECORATION = r"[ \t>#*_`~\-–—•]*"
_END = r"[\s*_`]*[:.)\-–—]+[\s*_`]*"
_TAIL = rf"(?:{_END}|[\s*_`]*(?:\s|$))"
_BY_STEP = re.compile(
    rf"^{_DECORATION}step\s*([1-9])\b[\s*_`]*[:.)\-–—]*[\s*_`]*", re.IGNORECASE | re.MULTILINE
)
_BY_NUMBER = re.compile(rf"^{_DECORATION}([1-9]\d?)\s*[.):](?=\s|\*){_DECORATION}", re.MULTILINE)
_QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|\*\*([^*\n]+)\*\*')
_LISTED = re.compile(r"\((\d{1,3})\)")
_NUMBERED_TITLE = re.compile(r"\((\d+)\) ?(.*)")


@dataclass(frozen=True)
class ParseFailure:
    """Why a text could not be read, and a word more (which step, how many candidates)."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Chain:
    """The steps of a reasoning chain, in order, each without its heading."""

    steps: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """An output cut at its markers: the reasoning, and what follows it."""

    reasoning: str
    answer: str | None
    """None when the end marker never came."""


def split_output(text: str) -> Output:
    """Cut an output at ``[reasoning_start]`` and ``[reasoning_end]``.

    The start marker may be missing (it is given to the model, not written by it). The first end
    marker counts.
    """
    reasoning, marker, answer = text.partition(REASONING_END)
    head, start, body = reasoning.partition(REASONING_START)
    reasoning = (body if start else head).strip()
    return Output(reasoning, answer.strip() if marker else None)


def parse_answer(answer: str, candidates: Sequence[str]) -> int | None:
    """The 0-based index of the candidate that the first written line names, or None."""
    lines = [line for line in answer.splitlines() if line.strip()]
    return match_title(lines[0], candidates) if lines else None


@dataclass(frozen=True)
class Prompt:
    """What a prompt shows and asks, read back from its text; titles are clean ones."""

    side: Side
    domain: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]
    answer_format: AnswerFormat


def parse_prompt(prompt: str) -> Prompt | None:
    """The inverse of ``render_prompt``; None for any other text."""
    for side, answer_format in product(get_args(Side), get_args(AnswerFormat)):
        instruction = render_instruction(side, answer_format)
        if prompt.endswith("\n" + instruction):
            return _parse_context(prompt.removesuffix(instruction), side, answer_format)
    return None


def parse_plain_prompt(prompt: str) -> Prompt | None:
    """The inverse of ``render_plain_prompt``; None for any other text.

    Its side is ``direct``: it names no steps.
    """
    for answer_format in get_args(AnswerFormat):
        instruction = render_plain_instruction(answer_format)
        if prompt.endswith("\n" + instruction):
            return _parse_context(prompt.removesuffix(instruction), "direct", answer_format)
    return None


def _parse_context(context: str, side: Side, answer_format: AnswerFormat) -> Prompt | None:
    lines = context.split("\n")[:-1]
    if len(lines) < 3 or not lines[0].startswith("Domain: ") or "Candidates:" not in lines:
        return None
    middle = lines.index("Candidates:")  # no title is a whole line, so none can be this one
    numbered = [_NUMBERED_TITLE.fullmatch(line) for line in lines[middle + 1 :]]
    return Prompt(
        side,
        lines[0].removeprefix("Domain: "),
        tuple(line.removeprefix("- ") for line in lines[2:middle]),
        tuple(match.group(2) for match in numbered if match),
        answer_format,
    )


def parse_chain(text: str, side: Side = "full") -> Chain | ParseFailure:
    """The steps of a chain, or why not; the inverse of ``render_reasoning``.

    Headings may be ``Step 1.``, a Markdown heading, bold, the step's name alone or plain numbering;
    reasoning in ``<think>`` and everything outside the markers is left out.
    """
    names = STEPS[side]
    exact = _parse_rendered(split_output(text).reasoning, names)
    if exact:
        return Chain(exact)
    text = split_output(_strip_thinking(text)).reasoning
    if not text.strip():
        return ParseFailure("empty")
    found = [_cut(text, _named_headings(text, names), names)]
    found += [_cut(text, list(_BY_STEP.finditer(text)), names)]
    if not any(found):  # numbers alone mean little: only a list of exactly as many counts
        found += [_cut(text, _number_run(text, len(names)), names)]
    bodies = max(found, key=lambda bodies: sum(map(bool, bodies.values())))
    if not bodies:
        return ParseFailure("malformed", "no steps found")
    missing = [n for n in range(1, len(names) + 1) if not bodies.get(n)]
    if missing:
        return ParseFailure("incomplete", f"step {missing[0]}")
    return Chain(tuple(bodies[n] for n in range(1, len(names) + 1)))


def parse_recommendation(step: str, candidates: Sequence[str]) -> int | ParseFailure:
    """The 0-based index of the candidate that the recommending step names, or why not.

    In order: its first line or sentence is a title; it begins with one and goes on after a full
    stop, a dash or the like; exactly one quoted or bold text is one; it begins with one at all;
    exactly one is mentioned; exactly one list number such as ``(3)`` is, and no title.
    """
    step = step.strip()
    first_line = step.splitlines()[0] if step else ""
    for form in (first_line, re.split(r"(?<=[.!?])\s", first_line)[0]):
        index = match_title(form, candidates)
        if index is not None:
            return index
    found = find_titles(step, candidates)
    begun = [i for i in found if _begins_with(step, candidates[i])]
    ended = [i for i in begun if _begins_with(step, candidates[i], r"\W*[.:;,!?()–—\-\"'”*]")]
    quoted = {
        match_title(next(filter(None, groups)), candidates) for groups in _QUOTED.findall(step)
    } - {None}
    for indices in (ended, quoted, begun, found):
        if len(indices) == 1:
            return next(i for i in indices if i is not None)
    if found:
        return ParseFailure("ambiguous", f"{len(found)} candidates named")
    numbers = {int(number) for number in _LISTED.findall(step)}
    if len(numbers) == 1 and 1 <= min(numbers) <= len(candidates):
        return min(numbers) - 1
    return ParseFailure("not_a_candidate")


def _begins_with(step: str, candidate: str, then: str = r"(?!\w)") -> bool:
    """Whether the step's first words are the candidate's title, followed by a pattern."""
    title = re.escape(normalize_title(candidate))
    return bool(re.match(rf"\W*{title}{then}", fold_text(strip_number(step))))


def _strip_thinking(text: str) -> str:
    """The text without the model's own thinking."""
    return _THINK_END.split(_THINK.sub("", text))[-1]


def _parse_rendered(reasoning: str, names: Sequence[str]) -> tuple[str, ...] | None:
    """The steps of a text that is exactly what ``render_reasoning`` writes, else None."""
    lines = reasoning.split("\n")
    heads = [f"Step {n}. {name}: " for n, name in enumerate(names, 1)]
    if len(lines) != len(heads) or not names:
        return None
    steps = [line.removeprefix(head) for line, head in zip(lines, heads, strict=True)]
    whole = all(line.startswith(head) for line, head in zip(lines, heads, strict=True))
    return tuple(steps) if whole and all(map(str.strip, steps)) else None


def _named_headings(text: str, names: Sequence[str]) -> list[re.Match[str]]:
    """Lines that begin with a step's name: numbered, or set off from what follows."""
    either = "|".join(re.escape(name) for name in names)
    numbering = r"\(?(?:step\s*[1-9]|[1-9])\)?[\s*_`]*[:.)\-–—]*[\s*_`]*"
    pattern = re.compile(
        rf"^{_DECORATION}(?:{numbering}(?P<n>{either}){_TAIL}"
        rf"|(?P<s>{either})(?:{_END}|[ \t*_`]*$|[*_`]+))",
        re.IGNORECASE | re.MULTILINE,
    )
    return list(pattern.finditer(text)) if names else []


def _number_run(text: str, length: int) -> list[re.Match[str]]:
    """Plain numbering 1, 2, 3 … of just this length; numbers of nested lists are passed over."""
    run: list[re.Match[str]] = []
    for match in _BY_NUMBER.finditer(text):
        if int(match.group(1)) == len(run) + 1:
            run.append(match)
    return run if len(run) <= length else []


def _cut(text: str, headings: list[re.Match[str]], names: Sequence[str]) -> dict[int, str]:
    """Step number to body. The first heading of a step counts; later ones belong to the text."""
    lower = [name.lower() for name in names]
    starts: dict[int, re.Match[str]] = {}
    for match in headings:
        label = next(filter(None, match.groups())).lower()
        number = lower.index(label) + 1 if label in lower else int(label)
        if number not in starts and number <= len(names):
            starts[number] = match
    ordered = sorted(starts.items(), key=lambda pair: pair[1].start())
    ends = [*(match.start() for _, match in ordered), len(text)][1:]
    return {
        number: _strip_name(text[match.end() : end], names[number - 1])
        for (number, match), end in zip(ordered, ends, strict=True)
    }


def _strip_name(body: str, name: str) -> str:
    """The body without the step's name, where plain numbering left it in front."""
    return re.sub(rf"^{_DECORATION}{re.escape(name)}{_TAIL}", "", body, flags=re.IGNORECASE).strip()
