"""Reading what models write: the five steps, the answer, and why a text has none.

Nothing here raises on any text: a bad completion is data, and its reason is counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.reasoning.prompts import STEPS, Side
from msrrec.reasoning.titles import (
    REASONING_END,
    REASONING_START,
    find_titles,
    match_title,
    strip_number,
)

Reason = Literal["empty", "malformed", "incomplete", "not_a_candidate", "ambiguous"]

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_DECORATION = r"[\s>#*_`~\-–—•]*"
_TAIL = r"[\s*_`]*(?:[:.)\-–—]+[\s*_`]*|\s|$)"
_BY_STEP = re.compile(
    rf"^{_DECORATION}step\s*([1-9])\b[\s*_`]*[:.)\-–—]*[\s*_`]*", re.IGNORECASE | re.MULTILINE
)
_BY_NUMBER = re.compile(rf"^{_DECORATION}([1-9])\s*[.):](?=\s|\*){_DECORATION}", re.MULTILINE)
_QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|\*\*([^*\n]+)\*\*')


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


def parse_chain(text: str, side: Side = "full") -> Chain | ParseFailure:
    """The steps of a chain, or why not; the inverse of ``render_reasoning``.

    Headings may be ``Step 1.``, a Markdown heading, bold, the step's name alone or plain numbering;
    reasoning in ``<think>`` and everything outside the markers is left out.
    """
    text = split_output(_THINK.sub("", text)).reasoning
    if not text.strip():
        return ParseFailure("empty")
    names = STEPS[side]
    for headings in (_named_headings(text, names), _BY_STEP.finditer(text), _number_run(text)):
        bodies = _cut(text, list(headings), names)
        if bodies:
            missing = [n for n in range(1, len(names) + 1) if not bodies.get(n)]
            if missing:
                return ParseFailure("incomplete", f"step {missing[0]}")
            return Chain(tuple(bodies[n] for n in range(1, len(names) + 1)))
    return ParseFailure("malformed", "no steps found")


def parse_recommendation(step: str, candidates: Sequence[str]) -> int | ParseFailure:
    """The 0-based index of the candidate that the recommending step names, or why not.

    In order: its first line or sentence is a title; exactly one quoted or bold text is one; exactly
    one candidate is mentioned.
    """
    first_line = step.splitlines()[0] if step.strip() else ""
    for form in (first_line, re.split(r"(?<=[.!?])\s", first_line)[0]):
        index = match_title(form, candidates)
        if index is not None:
            return index
    quoted = {
        match_title(next(filter(None, groups)), candidates) for groups in _QUOTED.findall(step)
    } - {None}
    if len(quoted) == 1:
        return next(i for i in quoted if i is not None)
    begun = [i for i in find_titles(step, candidates) if _begins_with(step, candidates[i])]
    if len(begun) == 1:
        return begun[0]
    found = find_titles(step, candidates)
    if len(found) == 1:
        return found[0]
    if found:
        return ParseFailure("ambiguous", f"{len(found)} candidates named")
    return ParseFailure("not_a_candidate")


def _begins_with(step: str, candidate: str) -> bool:
    """Whether the step's first words are the candidate's title."""
    head = strip_number(step.strip()).strip("\"'*_ ")[: len(candidate) + 1]
    return bool(find_titles(head, [candidate]))


def _named_headings(text: str, names: Sequence[str]) -> list[re.Match[str]]:
    """Lines that begin with a step's name, with or without numbering before it."""
    either = "|".join(re.escape(name) for name in names)
    pattern = re.compile(
        rf"^{_DECORATION}(?:\(?(?:step)?\s*[1-9]\)?[\s*_`]*[:.)\-–—]*[\s*_`]*)?({either}){_TAIL}",
        re.IGNORECASE | re.MULTILINE,
    )
    return list(pattern.finditer(text)) if names else []


def _number_run(text: str) -> list[re.Match[str]]:
    """Plain numbering 1, 2, 3 … in rising order; numbers of nested lists are passed over."""
    run: list[re.Match[str]] = []
    for match in _BY_NUMBER.finditer(text):
        if int(match.group(1)) == len(run) + 1:
            run.append(match)
    return run


def _cut(text: str, headings: list[re.Match[str]], names: Sequence[str]) -> dict[int, str]:
    """Step number to body. The first heading of a step counts; later ones belong to the text."""
    lower = [name.lower() for name in names]
    starts: dict[int, re.Match[str]] = {}
    for match in headings:
        label = match.group(1).lower()
        number = lower.index(label) + 1 if label in lower else int(label)
        if number not in starts and number <= len(names):
            starts[number] = match
    ordered = sorted(starts.items(), key=lambda pair: pair[1].start())
    ends = [match.start() for _, match in ordered[1:]] + [len(text)]
    return {
        number: _strip_name(text[match.end() : end], names[number - 1])
        for (number, match), end in zip(ordered, ends, strict=True)
    }


def _strip_name(body: str, name: str) -> str:
    """The body without the step's name, where plain numbering left it in front."""
    return re.sub(rf"^{_DECORATION}{re.escape(name)}{_TAIL}", "", body, flags=re.IGNORECASE).strip()
