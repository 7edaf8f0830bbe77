"""The mark in what a judge wrote: as JSON, in a fence, as a number alone, or in a sentence."""

import json
import math
import re
from typing import Any

from msrrec.reasoning.thinking import split_thinking

_FENCE = re.compile(r"^\s*```[\w-]{0,20}[ \t]*$", re.MULTILINE)
_NUMBER = r"(?P<number>-?\d{1,6}(?:\.\d{1,6})?)(?![\d.,]*\d)(?!\s?[-–—]\s?\d)(?! \d)"
_WHOLE = re.compile(rf"[\"'*_`\s]*{_NUMBER}\s?(?:/\s?100|%|out of 100)?[\"'*_`.\s]*", re.IGNORECASE)
_LABELLED = re.compile(
    r"(?:^|(?<=[.!?] ))\W{0,9}(?:(?:the|my|final|overall|total) ){0,3}"
    r"(?P<label>score|mark|rating|grade|final(?: answer| verdict)?)\b"
    r"(?:\s?\(\s?(?:0|1)\s?[-–—]\s?100\s?\))?[\"'*_`]*\s*(?:is|of|=|:)?\s*[\"'*_`]*\s*"
    rf"{_NUMBER}(?P<total>\s?/\s?\d+|\s?out of \d+)?",
    re.IGNORECASE | re.MULTILINE,
)
"""A label at the beginning of a line or a sentence."""
_IN_PROSE = re.compile(
    r"(?<!maximum )(?<!minimum )(?<!highest )(?<!lowest )(?<!possible )(?<!perfect )(?<!a )"
    r"\b(?:score|mark|rating|grade)\b[\"'*_`]*\s*(?:is|of|=|:)?\s*[\"'*_`]*\s*"
    rf"{_NUMBER}(?P<total>\s?/\s?\d+|\s?out of \d+)?",
    re.IGNORECASE,
)
_OF_100 = re.compile(rf"(?<![\d.-]){_NUMBER}(?P<total>\s?/\s?100|\s?out of 100)\b", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s?\{([^{}\n]{0,40})\}|<score>([^<>\n]{0,40})</score>", re.IGNORECASE)
_MAX_OBJECTS = 50
"""The last so many braces are tried; no answer needs more."""


def read_score(text: str) -> int | None:
    """The whole number from 0 to 100 that a judge gives, or None.

    Thoughts are left out. Then, of what comes first: the text as JSON, a number or whatever holds a
    score; the last outermost object in it that has one; what stands in LaTeX's box or in a tag
    ``<score>``; the number that the text or its first paragraph is; the last number that a label
    such as ``Score:`` gives at the beginning of a line or sentence; the last that a sentence calls
    a score or counts of 100. A number that is not whole, not from 0 to 100, one of a range, or out
    of another total is no mark.
    """
    said = _FENCE.sub("", split_thinking(text).speech).strip()
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        value = _last_object(said)
    if value is not None:
        return _to_score(_find_score(value) if isinstance(value, dict | list) else value)
    boxed = [first or second for first, second in _BOXED.findall(said)]
    if boxed:
        return _to_score(boxed[-1])
    whole = _WHOLE.fullmatch(said) or _WHOLE.fullmatch(said.partition("\n\n")[0])
    return _to_score(whole.group("number")) if whole else _find_labelled(said)


def _find_labelled(said: str) -> int | None:
    """The last number that a word marks as one, at the beginning of a sentence or else within."""
    found = [*_LABELLED.finditer(said)] or [*_IN_PROSE.finditer(said), *_OF_100.finditer(said)]
    last = max(found, key=lambda match: match.end("number"), default=None)
    if last is None or not re.fullmatch(r"\D*(?:100)?", last.group("total") or ""):
        return None
    return _to_score(last.group("number"))


def _find_score(value: Any, depth: int = 0) -> Any:
    """The score that a JSON object or a list of one holds, its own before those of its parts."""
    if isinstance(value, list):
        return _find_score(value[0], depth) if len(value) == 1 and depth < 3 else None
    if not isinstance(value, dict) or depth > 3:
        return None
    own = [part for name, part in value.items() if name.lower() == "score"]
    inner = (_find_score(part, depth + 1) for part in value.values())
    return own[-1] if own else next((score for score in inner if score is not None), None)


def _last_object(text: str) -> dict[str, Any] | None:
    """The last outermost JSON object in a text that has a score."""
    begins = [match.start() for match in re.finditer(r"\{", text)][-_MAX_OBJECTS:]
    found, end = None, -1
    for begin in begins:
        if begin < end:  # within the one before
            continue
        try:
            value, after = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        end = after
        found = value if _find_score(value) is not None else found
    return found


def _to_score(value: Any) -> int | None:
    """A number, or a text that is one, as a whole number from 0 to 100."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        value = float(whole.group("number")) if whole else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and 0 <= value <= 100 else None
