"""Parsers of model outputs: the five steps, the answer, and why a text has none.

No function raises on any text: a bad completion is data, and its reason is counted.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from msrrec.config import AnswerFormat, InstructionForm, PromptConfig
from msrrec.markup import unify_markers
from msrrec.reasoning.prompts import (
    CANDIDATES,
    HISTORY,
    RATIONALE,
    STEPS,
    Side,
    render_instruction,
    render_plain_instruction,
    render_recovery_instruction,
)
from msrrec.reasoning.thinking import split_thinking, strip_marks
from msrrec.titles import (
    REASONING_END,
    REASONING_START,
)

Reason = Literal["empty", "malformed", "incomplete", "not_a_candidate", "ambiguous"]

_FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*\w{0,20}[ \t]*$", re.MULTILINE)

_HEAD_CHARS = 160
"""Number of characters of a line in which a heading is searched, so that parsing time is linear."""
_PREAMBLE_CHARS = 200
"""Maximum text before a bare numbered list for it to count as the chain, not as a list at the end
of prose."""
_DECORATION = r"[ \t>#*_`~|\[(\-–—•]*"
_SEPARATOR = r"[ \t*_`~:.)\]|\\\-–—：、．]*"
_END = r"[ \t*_`~|)\]]*[:.\-–—：|]+[ \t*_`~]*"
_TAIL = rf"(?:{_END}|[ \t*_`~]*(?:\s|$))"
_DIGITS = (
    {str(n): n for n in range(1, 10)}
    | {c: n for n, c in enumerate("①②③④⑤", 1)}
    | {c: n for n, c in enumerate("一二三四五", 1)}
    | {word: n for n, word in enumerate(("one", "two", "three", "four", "five"), 1)}
    | {roman: n for n, roman in enumerate(("i", "ii", "iii", "iv", "v"), 1)}
)
_NUMERAL = r"(?:[1-9](?!\d)|[①-⑤一二三四五]|(?:one|two|three|four|five|i{1,3}|iv|v)\b)"
_STEP_WORDS = (
    "step|schritt|étape|etape|paso|passo|stap|krok|steg|шаг|крок|adım|bước|langkah|"
    "步骤|步驟|ステップ|手順|단계"
)
_BY_STEP = re.compile(
    rf"{_DECORATION}(?:(?:{_STEP_WORDS})[ \t.#*_\-–]{{0,4}}({_NUMERAL})(?:\s?/\s?\d)?"
    rf"|第\s?({_NUMERAL})\s?步|([1-5])\s?단계){_SEPARATOR}",
    re.IGNORECASE,
)
_BY_NUMBER = re.compile(
    rf"[ \t>#*_`~|\-–—•]*(?:\(?([1-9])(?:\ufe0f?\u20e3|\d?[ \t]?\\?[.):．、](?=\s|\*|$))"
    rf"|([①-⑤])|((?:i{{1,3}}|iv|v)\b)[.)](?=\s)){_DECORATION}",
    re.IGNORECASE,
)
_INLINE_STEP = re.compile(rf"(?<!\w)step[ ]?([1-9])[ ]?[:.)\-–—]{_DECORATION}", re.IGNORECASE)
_LABEL = re.compile(r"[ \t>#*_`~|]*([^:\n：]{1,60})(?:[:：][ \t*_`~|]*|\n)")
_LABEL_WORDS = re.compile(
    r"(?:a|and|best|brief|candidates?|choice|chosen|explanation|final|for|from|history|how|"
    r"identification|items?|of|on|option|purchase|product|rationale|reason|reasoning|recommended|s|"
    r"selected|selection|step|summari[sz]ed|summary|the|to|top|users?|with)"
)
_NUMBERED_TITLE = re.compile(r"\((\d+)\) ?(.*)")


@dataclass(frozen=True)
class ParseFailure:
    """Why a text could not be read, and a detail such as which step or how many candidates."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Chain:
    """The steps of a reasoning chain, in order, each without its heading."""

    steps: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """An output split at its markers: the reasoning, and the answer after it."""

    reasoning: str
    answer: str | None
    """None if the end marker is missing."""


def split_output(text: str) -> Output:
    """Split an output at ``[reasoning_start]`` and ``[reasoning_end]``.

    The start marker may be missing, as it is part of the prompt. The first end marker counts, in
    any spelling of ``unify_markers``.
    """
    reasoning, marker, answer = unify_markers(text).partition(REASONING_END)
    head, start, body = reasoning.partition(REASONING_START)
    reasoning = (body if start else head).strip()
    return Output(reasoning, answer.strip() if marker else None)


@dataclass(frozen=True)
class ParsedPrompt:
    """What a prompt shows and asks, parsed from its text; titles are those that it shows.

    The form has the order, answer format and instruction of the prompt; how far titles were cut
    can't be seen.
    """

    side: Side
    domain: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]
    form: PromptConfig


_FORMS = tuple(
    PromptConfig(answer_format=answer_format, instruction=instruction)
    for answer_format, instruction in product(get_args(AnswerFormat), get_args(InstructionForm))
)
"""Every form that shows in an instruction."""


def parse_prompt(prompt: str) -> ParsedPrompt | None:
    """The inverse of ``render_prompt``; None for any other text."""
    for side, form in product(get_args(Side), _FORMS):
        instruction = render_instruction(side, form)
        if prompt.endswith("\n" + instruction):
            return _parse_context(prompt.removesuffix(instruction), side, form)
    return None


def parse_plain_prompt(prompt: str) -> ParsedPrompt | None:
    """The inverse of ``render_plain_prompt``; None for any other text.

    Its side is ``direct``: it names no steps.
    """
    for form in _FORMS:
        instruction = render_plain_instruction(form)
        if prompt.endswith("\n" + instruction):
            return _parse_context(prompt.removesuffix(instruction), "direct", form)
    return None


def parse_recovery_prompt(prompt: str) -> ParsedPrompt | None:
    """The inverse of ``render_recovery_prompt``; None for any other text.

    Its history is the rationale alone.
    """
    for form in _FORMS:
        instruction = render_recovery_instruction(form)
        if prompt.endswith("\n" + instruction):
            found = _parse_context(prompt.removesuffix(instruction), "direct", form)
            with contextlib.suppress(ValueError):
                rationale = json.loads("\n".join(found.history)) if found else None
                if found and isinstance(rationale, str):
                    return replace(found, history=(rationale,))
    return None


def _parse_context(context: str, side: Side, form: PromptConfig) -> ParsedPrompt | None:
    lines = context.split("\n")[:-1]
    if len(lines) < 3 or not lines[0].startswith("Domain: "):
        return None
    is_reversed = lines[1] == CANDIDATES
    below = {HISTORY, RATIONALE} if is_reversed else {CANDIDATES}
    middle = next((n for n, line in enumerate(lines[2:], 2) if line in below), None)
    if middle is None:
        return None
    first, second = lines[2:middle], lines[middle + 1 :]
    evidence, choices = (second, first) if is_reversed else (first, second)
    numbered = [_NUMBERED_TITLE.fullmatch(line) for line in choices]
    return ParsedPrompt(
        side,
        lines[0].removeprefix("Domain: "),
        tuple(line.removeprefix("- ") for line in evidence),
        tuple(match.group(2) for match in numbered if match),
        form.model_copy(update={"order": "candidates_first"}) if is_reversed else form,
    )


@dataclass(frozen=True)
class ParsedCompletion:
    """A teacher's completion, parsed: its chain or why there is none, and its answer.

    Attributes:
        answer: The text after the end marker; None when that never came.
        speech: All that was said outside the thoughts.
        is_thought: Whether the chain stands in the thoughts alone; the answer is then what was said
            after them, which must name the chain's own choice.
        is_silent: Whether there are thoughts and nothing was said.
        is_open: Whether the text ends within a thought.
    """

    chain: Chain | ParseFailure
    answer: str | None
    speech: str = ""
    is_thought: bool = False
    is_silent: bool = False
    is_open: bool = False


def parse_chain(text: str, side: Side = "full") -> Chain | ParseFailure:
    """The steps of a chain, or why there are none; the inverse of ``render_reasoning``.

    Headings may be ``Step 1.``, a Markdown heading, bold, the step's name alone or plain numbering,
    in several languages. Everything outside the markers is left out, and so are thoughts, unless
    the whole chain stands in them and no step outside.
    """
    output = split_output(text)
    later = output.answer or ""
    if output.reasoning == text.removeprefix(REASONING_START).partition(REASONING_END)[0].strip():
        exact = _parse_rendered(output.reasoning, STEPS[side])
        if exact and split_thinking(later).speech == later:
            return Chain(exact)
    return parse_completion(text, side).chain


def parse_completion(text: str, side: Side = "full", thinking: str = "") -> ParsedCompletion:
    """The chain of a completion and the answer beside it.

    What was said outside the thoughts decides, and of several chains in it the last. A chain in the
    thoughts counts only where something was said and it has no steps.

    Args:
        text: The completion.
        side: Whose steps are looked for.
        thinking: Thoughts that arrived apart from the text.
    """
    text, thinking = (part.replace("\r\n", "\n").replace("\r", "\n") for part in (text, thinking))
    parts = split_thinking(text)
    speech, thoughts = parts.speech.strip(), f"{parts.thinking}\n{strip_marks(thinking)}".strip()
    chain, answer = _read_last_chain(parts.speech, STEPS[side])
    found = ParsedCompletion(chain, answer, speech, is_open=parts.is_open)
    if not speech:
        return replace(found, is_silent=bool(thoughts))
    if isinstance(chain, ParseFailure) and chain.reason in ("empty", "malformed"):
        thought, _ = _read_last_chain(thoughts, STEPS[side])
        if isinstance(thought, Chain):
            return replace(found, chain=thought, answer=answer or speech, is_thought=True)
    return found


def split_completion(text: str) -> Output:
    """What a completion said outside its thoughts, cut at its markers; of two answers the last."""
    outputs = _split_outputs(split_thinking(text).speech)
    answered = [output for output in outputs if output.answer != ""]
    return answered[-1] if answered else outputs[0]


def _split_outputs(text: str) -> list[Output]:
    """The outputs in a text, one an end marker, and one more where a chain begins after the last.

    An output begins at the last start marker before its end, or where the one before ended.
    """
    pieces = unify_markers(text).split(REASONING_END)
    bodies = [piece.rpartition(REASONING_START)[2].strip() for piece in pieces]
    answers: list[str | None] = [p.partition(REASONING_START)[0].strip() for p in pieces[1:]]
    is_begun = len(pieces) == 1 or REASONING_START in pieces[-1]
    ends = [*answers, None] if is_begun else answers
    return [Output(body, answer) for body, answer in zip(bodies, ends, strict=False)]


def _read_last_chain(text: str, names: Sequence[str]) -> tuple[Chain | ParseFailure, str | None]:
    """The last chain that a text begins, whole or not, and the last answer from there on."""
    outputs = _split_outputs(text)
    if outputs[-1].answer and _begins_chain(outputs[-1].answer, names):  # without markers
        return _read_steps(outputs[-1].answer, names), None
    exact = [_parse_rendered(output.reasoning, names) for output in outputs]
    chains = [
        Chain(steps) if steps else _read_steps(output.reasoning, names)
        for steps, output in zip(exact, outputs, strict=True)
    ]
    begun = [n for n, c in enumerate(chains) if isinstance(c, Chain) or c.reason == "incomplete"]
    n = begun[-1] if begun else 0
    answers = [output.answer for output in outputs[n:] if output.answer]
    return chains[n], answers[-1] if answers else outputs[n].answer


def _begins_chain(text: str, names: Sequence[str]) -> bool:
    """Whether a text has headings of steps, the first step's first; a list of numbers has none."""
    if "\n" not in text:
        return False
    lines = list(_iter_heads(text))
    readings = (_step_headings(lines), _named_headings(lines, names))
    return any(len(found) > 1 and found[0].number == 1 for found in readings)


def _read_steps(text: str, names: Sequence[str]) -> Chain | ParseFailure:
    if not text.strip():
        return ParseFailure("empty")
    is_code = bool(_FENCE.search(text)) or text.lstrip()[:1] == "{"
    text = _FENCE.sub("", text)
    lines = list(_iter_heads(text))
    readings = [_named_headings(lines, names), _step_headings(lines), _inline_steps(text, names)]
    found = [_cut(text, headings, names) for headings in readings if len(headings) > 1]
    if not any(found):  # bare numbers count only as a list of exactly the expected length
        found.append(_cut(text, _number_run(lines, len(names)), names))
    bodies = max(found, key=lambda bodies: sum(map(bool, bodies.values())))
    if not bodies:
        return ParseFailure("malformed", "code" if is_code else "no steps found")
    missing = [n for n in range(1, len(names) + 1) if not bodies.get(n)]
    if missing:
        return ParseFailure("incomplete", f"step {missing[0]}")
    return Chain(tuple(bodies[n] for n in range(1, len(names) + 1)))


def _parse_rendered(reasoning: str, names: Sequence[str]) -> tuple[str, ...] | None:
    """The steps of a text in exactly the form of ``render_reasoning``, else None."""
    lines = reasoning.split("\n")
    heads = [f"Step {n}. {name}: " for n, name in enumerate(names, 1)]
    if len(lines) != len(heads) or not names:
        return None
    steps = [line.removeprefix(head) for line, head in zip(lines, heads, strict=True)]
    whole = all(line.startswith(head) for line, head in zip(lines, heads, strict=True))
    return tuple(steps) if whole and all(map(str.strip, steps)) else None


@dataclass(frozen=True)
class _Heading:
    """A step's heading: its 1-based number, where it starts, and where the body begins."""

    number: int
    start: int
    end: int


def _iter_heads(text: str) -> Iterator[tuple[int, str]]:
    """The position of each line, and its first characters."""
    start = 0
    for line in text.split("\n"):
        yield start, line[:_HEAD_CHARS]
        start += len(line) + 1


def _named_headings(lines: Sequence[tuple[int, str]], names: Sequence[str]) -> list[_Heading]:
    """Lines that begin with a step's name, numbered or set apart from the text."""
    either = "|".join(r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", n))) for n in names)
    numbering = rf"\(?(?:(?:{_STEP_WORDS})[\s\-–]?)?{_NUMERAL}(?:\ufe0f?\u20e3)?{_SEPARATOR}"
    pattern = re.compile(
        rf"{_DECORATION}(?:{numbering}(?:final )?(?P<n>{either}){_TAIL}"
        rf"|(?:final )?(?P<s>{either})(?:\s?\([1-9]\))?(?:{_END}|[ \t*_`~]*$|[*_`]+))",
        re.IGNORECASE,
    )
    lower = [_squeeze(name) for name in names]
    found = [(start, pattern.match(head)) for start, head in lines] if names else []
    return [
        _Heading(
            lower.index(_squeeze(match.group("n") or match.group("s"))) + 1,
            start,
            start + match.end(),
        )
        for start, match in found
        if match
    ]


def _squeeze(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).lower()


def _step_headings(lines: Sequence[tuple[int, str]]) -> list[_Heading]:
    """Lines that begin with the word for a step (in any language) and its number."""
    return [
        _Heading(_numeral(match), start, start + match.end())
        for start, head in lines
        if (match := _BY_STEP.match(head))
    ]


def _inline_steps(text: str, names: Sequence[str]) -> list[_Heading]:
    """``Step 1: … Step 2: …`` within one paragraph, all in their order; else none."""
    runs: list[list[_Heading]] = [[]]
    for match in _INLINE_STEP.finditer(text):
        number = int(match.group(1))
        if number == 1 and len(runs[-1]) == len(names):  # the chain begins again
            runs.append([])
        if number == len(runs[-1]) + 1:
            runs[-1].append(_Heading(number, match.start(), match.end()))
    return [heading for run in runs if len(run) == len(names) for heading in run]


def _number_run(lines: Sequence[tuple[int, str]], length: int) -> list[_Heading]:
    """Plain numbering 1, 2, 3 … of exactly this length; numbers of nested lists are skipped."""
    run: list[_Heading] = []
    for start, head in lines:
        match = _BY_NUMBER.match(head)
        if match and _numeral(match) == len(run) + 1:
            run.append(_Heading(len(run) + 1, start, start + match.end()))
    is_list = 2 <= len(run) <= length and run[0].start <= _PREAMBLE_CHARS
    return run if is_list else []


def _numeral(match: re.Match[str]) -> int:
    return _DIGITS[next(filter(None, match.groups())).lower()]


def _cut(text: str, headings: Sequence[_Heading], names: Sequence[str]) -> dict[int, str]:
    """Step number to body, of the last whole chain or else of all headings together.

    The first heading of a step counts; later ones belong to the text. A chain that starts again
    after its last step ends there.
    """
    known = [heading for heading in headings if heading.number <= len(names)]
    attempts = _split_attempts(known)
    whole = [n for n, found in enumerate(attempts) if len({h.number for h in found}) == len(names)]
    attempts = attempts[whole[-1] :] if whole else [known]
    starts: dict[int, _Heading] = {}
    for heading in attempts[0]:
        starts.setdefault(heading.number, heading)
    ordered = sorted(starts.values(), key=lambda heading: heading.start)
    if not ordered:
        return {}
    again = (
        heading.start
        for attempt in attempts
        for heading in attempt
        if heading.number == ordered[0].number and heading.start > ordered[-1].start
    )
    ends = [*(heading.start for heading in ordered[1:]), next(again, len(text))]
    return {
        heading.number: _strip_name(text[heading.end : end], names[heading.number - 1])
        for heading, end in zip(ordered, ends, strict=True)
    }


def _split_attempts(headings: Sequence[_Heading]) -> list[list[_Heading]]:
    """The headings of each chain: another one begins with the heading that the first began with."""
    attempts: list[list[_Heading]] = []
    for heading in headings:
        if not attempts or heading.number == headings[0].number:
            attempts.append([])
        attempts[-1].append(heading)
    return attempts


def _strip_name(body: str, name: str) -> str:
    """The body without the step's name or a similar label at its start."""
    body = body.strip()
    pattern = rf"\A{_DECORATION}{re.escape(name)}(?:{_TAIL}|[ \t*_`~]*\n)"
    body = (
        re.sub(pattern, "", body[:_HEAD_CHARS], count=1, flags=re.IGNORECASE) + body[_HEAD_CHARS:]
    )
    label = _LABEL.match(body[:_HEAD_CHARS])
    words = re.findall(r"\w+", label.group(1).lower()) if label else []
    stems = {word[:5] for word in name.lower().split()}
    is_label = all(_LABEL_WORDS.fullmatch(word) or word[:5] in stems for word in words)
    if label and is_label and any(word[:5] in stems for word in words) and body[label.end() :]:
        body = body[label.end() :]
    body = body.strip().rstrip("|").rstrip()
    return body.strip("*").strip() if body.count("**") % 2 else body  # bold of the heading
