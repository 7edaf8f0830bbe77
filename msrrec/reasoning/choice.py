"""Which candidate a recommending step names, in the prose of a teacher.

Teachers shorten titles, put them in quotes and compare them with others, and all that is read here.
A student's answer must satisfy ``match_title`` instead.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.reasoning.parsing import ParseFailure
from msrrec.titles import (
    find_titles,
    fold_text,
    match_short_title,
    match_title,
    meant_by,
    normalize_title,
    strip_number,
)

_QUOTED = re.compile(
    r'"([^"\n]+)"|“([^“”\n]+)”|\*\*([^*\n]+)\*\*|«([^«»\n]+)»|「([^「」\n]+)」'
    r"|『([^『』\n]+)』|《([^《》\n]+)》|(?<!\w)'([^'\n]+)'(?!\w)"
)
_LISTED = re.compile(r"\((\d{1,3})\)")
_NAMING_LABEL = re.compile(
    r"[^\w\n]*(?:\w+[ \t]+){0,4}(?:recommend\w*|answer|choice|selection|pick|item|candidate|"
    r"product|option)\b[ \t*_]*(?:is\b)?[ \t*_]*[:：][ \t*_]*(?=\S)",
    re.IGNORECASE,
)
_CHOOSING = re.compile(
    r"\b(?:recommend\w*|choos\w+|chosen?|chose|select\w*|pick\w*|best|go with|opt for|winner)\b"
    r"|推荐|推薦",
    re.IGNORECASE,
)
_DENYING = re.compile(r"\b(?:never|neither|nor|cannot|\w+n['’]t)\b", re.IGNORECASE)
_CONTRAST = re.compile(
    r"\b(?:not|over|rather than|instead of|than|unlike|compared (?:to|with)|while|whereas|although|"
    r"though|but)\b",
    re.IGNORECASE,
)
_HEAD_CHARS = 200
"""Number of characters of a line in which a label is searched."""
_MAX_NAMES = _MAX_SENTENCES = 50
"""Limits on names and sentences read per step, so that a huge text does not take too long."""


Rule = Literal["title", "begins", "alone", "recommended", "opening", "mention", "number"]
"""The rule by which a step names its candidate, see ``read_recommendation``."""


@dataclass(frozen=True)
class NamedChoice:
    """The 0-based candidate that a recommending step names, and the rule that decided."""

    index: int
    rule: Rule


def parse_recommendation(step: str, candidates: Sequence[str]) -> int | ParseFailure:
    """The 0-based index of the candidate that ``read_recommendation`` finds, or why none."""
    choice = read_recommendation(step, candidates)
    return choice if isinstance(choice, ParseFailure) else choice.index


def read_recommendation(step: str, candidates: Sequence[str]) -> NamedChoice | ParseFailure:
    """The candidate that the recommending step names, or why none.

    The first rule that finds a candidate decides:

    1. title: the first line or sentence is a title.
    2. begins: the step begins with a title and continues after a full stop, a dash or the like.
    3. alone: exactly one labelled, quoted or bold text is a title.
    4. recommended: exactly one title is in the recommending sentences.
    5. opening: the step begins with a title.
    6. mention: exactly one title is mentioned.
    7. number: exactly one list number such as ``(3)`` is mentioned, and no title.

    Titles that stand alone may be shortened as in ``match_short_title``. If a list number belongs
    to another candidate, the step is ambiguous.
    """
    step = step.strip()
    choice = _find_choice(step, candidates)
    if isinstance(choice, ParseFailure):
        return choice
    listed = _LISTED.match(step.lstrip("\"'*_"))
    number = int(listed.group(1)) if listed else choice.index + 1
    is_other = number != choice.index + 1 and 1 <= number <= len(candidates)
    if is_other and not normalize_title(candidates[choice.index]).startswith(f"({number})"):
        return ParseFailure("ambiguous", "number and title differ")
    return choice


def _find_choice(step: str, candidates: Sequence[str]) -> NamedChoice | ParseFailure:
    first_line = step.splitlines()[0] if step else ""
    for form in (first_line, re.split(r"(?<=[.!?])\s", first_line)[0]):
        index = match_title(form, candidates)
        if index is not None:
            return NamedChoice(index, "title")
    found = find_titles(step, candidates, short=True)
    begun = [i for i in found if _begins_with(step, i, candidates)]
    rules: dict[Rule, list[int]] = {
        "begins": [i for i in begun if _begins_with(step, i, candidates, r"\W*[.:;,!?()\-\"'*]")],
        "alone": _named_alone(step, candidates),
        "recommended": _recommended(step, candidates),
        "opening": begun,
        "mention": found,
    }
    for rule, indices in rules.items():
        if len(indices) == 1:
            return NamedChoice(indices[0], rule)
    if found:
        return ParseFailure("ambiguous", f"{len(found)} candidates named")
    numbers = {int(number) for number in _LISTED.findall(step)}
    if len(numbers) == 1 and 1 <= min(numbers) <= len(candidates):
        return NamedChoice(min(numbers) - 1, "number")
    return ParseFailure("not_a_candidate")


def _named_alone(step: str, candidates: Sequence[str]) -> list[int]:
    """Candidates whose full or short title stands alone: labelled, quoted or in bold."""
    heads = [line[:_HEAD_CHARS] for line in step.splitlines()]
    labels = [(line, label) for line in heads if (label := _NAMING_LABEL.match(line))]
    forms = [(line[label.end() :], "") for line, label in labels]
    forms += [
        (next(filter(None, match.groups())), step[match.end() :][:_HEAD_CHARS])
        for match in _QUOTED.finditer(step)
    ]
    forms = list(dict.fromkeys(forms))[:_MAX_NAMES]
    forms += [_cut_form(form) for form, _ in (*forms, *((head, "") for head in heads[:1]))]
    found = {i for form, after in forms for i in _named_by(form, after, candidates)}
    if not found:
        short = (match_short_title(form, candidates) for form, _ in forms)
        found = {index for index in short if index is not None}
    return sorted(found)


def _cut_form(form: str) -> tuple[str, str]:
    """What stands before a dash, a colon or a full stop, and the rest."""
    head, *rest = re.split(r"(\s[-–—]\s|[:.]\s)", form, maxsplit=1)
    return head, "".join(rest)


def _named_by(form: str, after: str, candidates: Sequence[str]) -> set[int]:
    """The candidates that a text which is a title may mean, by what stands after it."""
    index = match_title(form, candidates)
    return set() if index is None else meant_by(index, fold_text(after), candidates)


def _recommended(step: str, candidates: Sequence[str]) -> list[int]:
    """Candidates in recommending sentences, up to a word of contrast such as "unlike"."""
    found: set[int] = set()
    for sentence in re.split(r"(?<=[.!?])\s+|\n", step)[:_MAX_SENTENCES]:
        claim = _CONTRAST.split(sentence, maxsplit=1)[0]
        if _CHOOSING.search(claim) and not _DENYING.search(claim):
            found |= set(find_titles(claim, candidates))
    return sorted(found)


def _begins_with(step: str, index: int, candidates: Sequence[str], then: str = r"(?!\w)") -> bool:
    """Whether the step's first words are a candidate's title, followed by a pattern.

    Not where they may be another's that goes on.
    """
    plain = fold_text(strip_number(step))
    begun = re.match(rf"\W*{re.escape(normalize_title(candidates[index]))}(?={then})", plain)
    return bool(begun and meant_by(index, plain[begun.end() :], candidates) == {index})
