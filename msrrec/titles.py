"""Item titles as prompts show them, and the one rule by which a text names a candidate.

Titles are untrusted text. They reach a prompt only through ``clean_title``, one line each.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

REASONING_START = "[reasoning_start]"
REASONING_END = "[reasoning_end]"

MAX_TITLE_CHARS = 160
"""Maximum length; longer titles are cut between words and end in an ellipsis."""

_MARKER = re.compile(r"\[\s*(reasoning_(?:start|end))\s*\]", re.IGNORECASE)
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_QUOTES = str.maketrans({c: '"' for c in "“”„‟«»″"} | {c: "'" for c in "‘’‚‛′`´"})
_EDGES = " \t\n\"'*_.,;:!?()[]{}<>-–—…"
_NUMBER = re.compile(r"[\"'*_]*\s*(?:\(\d{1,3}\)|\d{1,3}[.)])\s*(?=\S)")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # Chinese and Japanese
_COUNT = r"(?:\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten)"
_ORDINAL = (
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last"
    r"|\d{1,2}(?:st|nd|rd|th))"
)
_NOUN = r"(?:candidate|item|option|choice|product|title|pick)"
_LISTED = re.compile(
    rf"[(\[]\s?\d{{1,3}}\s?[)\]]|\b{_NOUN}s?[\s:#(\[-]{{1,4}}{_COUNT}\b"
    rf"|\b{_ORDINAL} (?:{_NOUN}|one)\b|(?:\bnumber |\bno\.? ?|#|№ ?)\d{{1,3}}\b"
    r"|\b\d{1,2}[.):] ?(?=\0)"
)
"""Pattern for a mention of a candidate by its place in the list, in folded prose."""
_EMPHASIS = re.compile(r"[*_`]+")
_MARKED = re.compile(r"[{0}]*\0[{0}]*".format(re.escape("".join(_EDGES.split()))))
_PLACE = "\0"
"""Placeholder for a title that was found; it occurs in no cleaned title."""
_MIN_CUT_CHARS = 8
_SUBTITLE = re.compile(r"\s*[:;(\[{,|…]\s*|\s[-–—]\s")


def clean_title(title: str) -> str:
    """A title as every prompt shows it: one line, no markup, no markers, at most 160 characters.

    HTML entities are decoded however often they were escaped, white space is collapsed, and
    invisible and control characters are removed. A chain marker loses its brackets, so a title can
    neither end its line nor close the reasoning. Cleaning a clean title changes nothing. The result
    is empty if no visible character is left.
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
    """The form in which titles are compared: cleaned, case-folded, without outer punctuation.

    A title that is only punctuation is kept, so that it still differs from others.
    """
    return _normalize(text[: 8 * MAX_TITLE_CHARS])  # clean_title reads no more


@lru_cache(maxsize=8192)
def _normalize(text: str) -> str:
    plain = unicodedata.normalize("NFKC", clean_title(text)).translate(_QUOTES)
    text = " ".join(plain.split()).casefold()
    return text.strip(_EDGES) or text


def strip_number(text: str) -> str:
    """The text without one leading list number: ``(3) Lamp``, ``3. Lamp`` and ``3) Lamp``."""
    match = _NUMBER.match(text.lstrip())
    return text.lstrip()[match.end() :] if match else text


def match_title(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based index of the candidate that ``text`` names; None for none or several.

    Text and title must be equal after normalisation (HTML entities, case, spaces, outer quotes and
    punctuation). A title may itself begin with a number, so the whole text is compared before a
    leading list number is dropped. If the whole text is one candidate, but number and remainder
    agree on another, the text names neither.
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
    """The list number that ``strip_number`` drops; 0 if there is none."""
    match = _NUMBER.match(text.lstrip())
    return int("".join(c for c in match.group() if c.isdigit())) if match else 0


def match_short_title(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based index of the only candidate that a shortened title can mean, or None.

    A shortened title is the title up to its subtitle, its first words (at least two), its first
    characters and an ellipsis, or at least three of its words in order. Teachers shorten titles in
    prose; a student's answer must satisfy ``match_title``.
    """
    form = normalize_title(strip_number(text))
    words = re.findall(r"\w+", form)
    is_cut = text.rstrip(" \"'”’*_)]").endswith(("...", "…"))
    hits = [
        i
        for i, title in enumerate(candidates)
        if words and (_is_short(form, words, title) or (is_cut and _begins(title, form)))
    ]
    return hits[0] if len(hits) == 1 else None


def _begins(title: str, form: str) -> bool:
    return len(form) >= _MIN_CUT_CHARS and normalize_title(title).startswith(form)


def _is_short(form: str, words: Sequence[str], title: str) -> bool:
    if form == main_title(title):
        return True
    whole = re.findall(r"\w+", normalize_title(title))
    if whole[: len(words)] == words:
        return len(words) >= 2
    rest = iter(whole)
    return len(words) >= 3 and all(word in rest for word in words)


def main_title(title: str) -> str:
    """The normalised title without its subtitle, series or edition."""
    return _SUBTITLE.split(normalize_title(title), maxsplit=1)[0]


def fold_text(text: str) -> str:
    """Prose in the form in which normalised titles are searched for."""
    plain = unicodedata.normalize("NFKC", html.unescape(text)).translate(_QUOTES)
    return " ".join(plain.split()).casefold()


def find_titles(text: str, candidates: Sequence[str], *, short: bool = False) -> list[int]:
    """The candidates that prose mentions, as 0-based indices in ascending order.

    A mention begins and ends at word boundaries. If a title is part of a longer candidate's title,
    only its occurrences outside the longer title count.

    Args:
        text: Prose to search.
        candidates: Titles of the candidates.
        short: Whether the part before a subtitle counts too, if it has at least three words and no
            other candidate begins with it.
    """
    plain = fold_text(text)
    forms = [(normalize_title(title), i) for i, title in enumerate(candidates)]
    if short:
        forms += [
            (main, i)
            for i, title in enumerate(candidates)
            if len((main := main_title(title)).split()) >= 3
            and not any(whole.startswith(main) for whole, other in forms if other != i)
        ]
    found: set[int] = set()
    for form, i in sorted(forms, key=lambda pair: -len(pair[0])):
        plain, count = replace_mentions(plain, form, _PLACE)
        found |= {i} if count else set()
    return sorted(found)


def mask_titles(text: str, candidates: Sequence[str]) -> str:
    """Folded prose with ``[item]`` in place of every mention of a candidate.

    A mention is the title, its first words (at least two), the part before its subtitle, or its
    place in the list. Punctuation around a mention is removed too, as it may belong to the title.
    """
    plain = _EMPHASIS.sub("", fold_text(text))
    for form in _list_names(candidates):
        plain, _ = replace_mentions(plain, form, _PLACE)
    masked = _MARKED.sub(_PLACE, _LISTED.sub(_PLACE, plain))
    return " ".join(masked.replace(_PLACE, " [item] ").split())


def _list_names(candidates: Sequence[str]) -> list[str]:
    """All names that prose may use for the candidates, longest first."""
    names: set[str] = set()
    for title in candidates:
        whole = _EMPHASIS.sub("", normalize_title(title))
        words = whole.split()
        names |= {whole, _EMPHASIS.sub("", main_title(title))}
        names |= {" ".join(words[:n]).strip(_EDGES) for n in range(2, len(words))}
    return sorted(names - {""}, key=lambda name: (-len(name), name))


def replace_mentions(plain: str, form: str, by: str) -> tuple[str, int]:
    """Folded text with every mention of a normalised title replaced, and the number of mentions.

    A mention begins and ends at word boundaries, except in scripts without spaces.
    """
    parts: list[str] = []
    start = 0
    place = plain.find(form) if form else -1
    while place >= 0:
        end = place + len(form)
        if _joins(plain[max(place - 1, 0) : place], form[0]) or _joins(
            form[-1], plain[end : end + 1]
        ):
            place = plain.find(form, place + 1)
            continue
        parts.append(plain[start:place])
        start, place = end, plain.find(form, end)
    return by.join([*parts, plain[start:]]), len(parts)


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return all((c.isalnum() or c == "_") and not _UNSPACED.match(c) for c in (left, right))
