"""Item titles as prompts show them, and the one rule by which an answer names a candidate.

Titles are text from strangers: they reach a prompt only through ``clean_title``, one line each.
"""

import html
import re
import unicodedata
from collections.abc import Sequence

REASONING_START = "[reasoning_start]"
REASONING_END = "[reasoning_end]"

MAX_TITLE_CHARS = 160
"""Longer titles are cut at a word and end in an ellipsis."""

_MARKER = re.compile(r"\[\s*(reasoning_(?:start|end))\s*\]", re.IGNORECASE)
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_QUOTES = str.maketrans({c: '"' for c in "“”„‟«»″"} | {c: "'" for c in "‘’‚‛′`´"})
_EDGES = " \t\n\"'*_.,;:!?()[]{}<>-–—…"
_NUMBER = re.compile(r"^\s*[\"'*_]*\s*(?:\(\d{1,3}\)|\d{1,3}[.)])\s*(?=\S)")


def clean_title(title: str) -> str:
    """The title as every prompt shows it: one line, no markup, no markers, at most 160 characters.

    HTML entities become characters however often they were escaped, runs of white space one space,
    invisible and control characters vanish, and a chain marker loses its brackets, so a title can
    neither end its line nor close the reasoning. Cleaning a clean title changes nothing. Empty when
    nothing visible is left.
    """
    text = title[: 8 * MAX_TITLE_CHARS]  # enough for entities; a title may have 400,000 characters
    while (cleaned := _clean_once(text)) != text:  # removals can join new entities and markers
        text = cleaned
    if len(text) <= MAX_TITLE_CHARS:
        return text
    head = text[: MAX_TITLE_CHARS - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[MAX_TITLE_CHARS // 2 :] else head).rstrip() + "…"


def _clean_once(text: str) -> str:
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(text)
        text = "".join(" " if c.isspace() else c for c in text)
        text = "".join(c for c in text if unicodedata.category(c) not in _INVISIBLE)
    return _MARKER.sub(r"\1", " ".join(text.split()))


def normalize_title(text: str) -> str:
    """The form in which two titles are compared: cleaned, case-folded, outer punctuation removed.

    A title of punctuation alone stays as it is, so it still differs from another one.
    """
    text = unicodedata.normalize("NFKC", clean_title(text)).translate(_QUOTES).casefold()
    return text.strip(_EDGES) or text


def strip_number(text: str) -> str:
    """The text without one leading list number: ``(3) Lamp``, ``3. Lamp`` and ``3) Lamp``."""
    return _NUMBER.sub("", text, count=1)


def match_title(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based index of the candidate that ``text`` names, or None for none or several.

    Equal after normalisation (HTML entities, case, spaces, outer quotes and punctuation). A title
    that itself begins with a number is tried whole before a leading list number is dropped; where
    the whole is one candidate and the number and the rest another, the text names neither.
    """
    wanted = [normalize_title(c) for c in candidates]
    whole, rest = (
        [i for i, title in enumerate(wanted) if title and title == form]
        for form in (normalize_title(text), normalize_title(strip_number(text)))
    )
    if whole and whole != rest and rest == [_leading_number(text) - 1]:
        return None
    hits = whole or rest
    return hits[0] if len(hits) == 1 else None


def _leading_number(text: str) -> int:
    """The list number that ``strip_number`` drops; 0 for none."""
    match = _NUMBER.match(text)
    return int("".join(c for c in match.group() if c.isdigit())) if match else 0


def fold_text(text: str) -> str:
    """Prose in the form in which normalised titles are looked for in it."""
    plain = unicodedata.normalize("NFKC", html.unescape(text)).translate(_QUOTES)
    return " ".join(plain.split()).casefold()


def find_titles(text: str, candidates: Sequence[str]) -> list[int]:
    """The candidates that prose mentions, in the order of the list.

    A mention stands between word boundaries. A candidate whose title lies inside another
    candidate's counts only where it occurs outside that longer title.
    """
    plain = fold_text(text)
    found: list[int] = []
    for i in sorted(range(len(candidates)), key=lambda i: -len(normalize_title(candidates[i]))):
        title = normalize_title(candidates[i])
        pattern = rf"(?<!\w){re.escape(title)}(?!\w)"
        if title and re.search(pattern, plain):
            found.append(i)
            plain = re.sub(pattern, "\0", plain)
    return sorted(found)
