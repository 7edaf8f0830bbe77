"""Which candidate an output names: one rule for every system, read strictly and leniently.

What a model said outside its thoughts counts. The answer is what stands after the end marker, the
last one where there are several. An output that opens a reasoning and never ends it has none. Where
there are no markers at all, as in systems that write a title alone, the answer is the first written
line, or else the last one. Strictly, the answer's first line must be a title, with or without its
list number.

The lenient reading is LLaRA's (Liao et al. 2024): just one candidate is a substring of the first
line. Where the end marker is missing, it reads the recommending step. A title that lies inside
another candidate's makes two, so the lenient reading is not always the more generous one.
"""

from collections.abc import Sequence
from typing import get_args

from msrrec.markup import unify_markers
from msrrec.reasoning.parsing import (
    Chain,
    ParseFailure,
    parse_chain,
    split_output,
)
from msrrec.reasoning.prompts import Side
from msrrec.reasoning.thinking import split_thinking
from msrrec.titles import (
    REASONING_END,
    REASONING_START,
    Rung,
    fold_text,
    match_title,
    normalize_title,
    read_title,
)


def read_strict(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based candidate that an output names, or None for none or several."""
    found = (match_title(line, candidates) for line in answer_lines(text))
    return next((index for index in found if index is not None), None)


def read_rung(text: str, candidates: Sequence[str]) -> Rung:
    """How an output's answer names a candidate, on the whole ladder of ``read_title``."""
    found = [read_title(line, candidates) for line in answer_lines(text)]
    named = (match.rung for match in found if match.index is not None)
    return next(named, found[0].rung if found else "none")


def read_lenient(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based candidate that is the only one in the line that is read, or None."""
    found = (_find_substrings(line, candidates) for line in _lenient_lines(text, candidates))
    hits = next(filter(None, found), [])
    return hits[0] if len(hits) == 1 else None


def answer_lines(text: str) -> list[str]:
    """The lines in which an answer is looked for, in order; none in an output without one."""
    spoken = unify_markers(split_thinking(text).speech)
    answer = _find_answer(spoken)
    if answer is not None:
        return _written_lines(answer)[:1]
    if REASONING_START in spoken or text.lstrip().startswith(REASONING_START):
        return []
    lines = _written_lines(spoken)
    return [*lines[:1], *lines[1:][-1:]]


def _find_answer(spoken: str) -> str | None:
    """What stands after an end marker, the last time that something does; None without a marker."""
    answers = [part.partition(REASONING_START)[0] for part in spoken.split(REASONING_END)[1:]]
    written = [answer for answer in answers if answer.strip()] or answers
    return written[-1] if written else None


def _lenient_lines(text: str, candidates: Sequence[str]) -> list[str]:
    """Those of the answer; without an end marker the recommending step's first line.

    An output without steps is read at its last line, one whose steps broke off not at all.
    """
    spoken, lines = unify_markers(split_thinking(text).speech), answer_lines(text)
    if _find_answer(spoken) is not None or read_strict(text, candidates) is not None:
        return lines
    chain = _read_chain(spoken)
    if isinstance(chain, Chain):
        return _written_lines(chain.steps[-1])[:1]
    return [] if chain else lines or _written_lines(split_output(spoken).reasoning)[-1:]


def _read_chain(text: str) -> Chain | ParseFailure | None:
    """The chain of any side that a text holds; a failure where it broke off; None for no steps."""
    sides: Sequence[Side] = get_args(Side)
    found = [parse_chain(text, side) for side in sides if side != "direct"]
    whole = next((chain for chain in found if isinstance(chain, Chain)), None)
    broken = (c for c in found if isinstance(c, ParseFailure) and c.reason == "incomplete")
    return whole or next(broken, None)


def _find_substrings(line: str, candidates: Sequence[str]) -> list[int]:
    """The candidates whose folded titles stand in a folded line, be it within a word.

    Double quotes are single ones here, as some prompts must show them so.
    """
    plain = fold_text(line).replace('"', "'")
    forms = [normalize_title(title).replace('"', "'") for title in candidates]
    return [i for i, form in enumerate(forms) if form and form in plain]


def _written_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
