"""The mark in what a judge wrote: as JSON, in a fence, as a number alone, or in a sentence."""

import json
import math
import re
from typing import Any

from msrrec.reasoning.thinking import split_thinking

_FENCE = re.compile(r"^\s*```[\w-]{0,20}[ \t]*$", re.MULTILINE)
_NUMBER = r"(?P<number>-?\d{1,6}(?:\.\d{1,6})?)(?![\d.]*\d)"
_WHOLE = re.compile(rf"[\"'*_`\s]*{_NUMBER}\s?(?:/\s?100|%|out of 100)?[\"'*_`.\s]*", re.IGNORECASE)
_LABELLED = re.compile(
    r"\b(?:score|mark|rating|grade)\b[\"'*_`]*\s*(?:is|of|=|:)?\s*[\"'*_`]*\s*"
    rf"{_NUMBER}(?P<total>\s?/\s?\d+|\s?out of \d+)?",
    re.IGNORECASE,
)
_OF_100 = re.compile(rf"(?<![\d.-]){_NUMBER}(?P<total>\s?/\s?100|\s?out of 100)\b", re.IGNORECASE)
_MAX_OBJECTS = 50
"""The last so many braces are tried; no answer needs more."""


def read_score(text: str) -> int | None:
    """The whole number from 0 to 100 that a judge gives, or None.

    Thoughts are left out. Then, of what comes first: the text as JSON, an object with a score or a
    number; the last object in it that has a score; the number that the text is; the last number
    that a word such as ``Score:`` or ``of 100`` marks as one. A number that is not whole, not from
    0 to 100, or out of another total is no mark.
    """
    said = _FENCE.sub("", split_thinking(text).speech).strip()
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        value = _last_object(said)
    if value is not None:
        return _to_score(value.get("score") if isinstance(value, dict) else value)
    whole = _WHOLE.fullmatch(said)
    if whole:
        return _to_score(whole.group("number"))
    found = [*_LABELLED.finditer(said), *_OF_100.finditer(said)]
    last = max(found, key=lambda match: match.end("number"), default=None)
    if last is None or not re.fullmatch(r"\D*(?:100)?", last.group("total") or ""):
        return None
    return _to_score(last.group("number"))


def _last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in a text that has a score."""
    begins = [match.start() for match in re.finditer(r"\{", text)][-_MAX_OBJECTS:]
    for begin in reversed(begins):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "score" in value:
            return value
    return None


def _to_score(value: Any) -> int | None:
    """A number, or a text that is one, as a whole number from 0 to 100."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        value = float(whole.group("number")) if whole else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and 0 <= value <= 100 else None
