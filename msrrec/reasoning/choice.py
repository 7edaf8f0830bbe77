"""Which candidate a recommending step names, in the prose of a teacher.

Teachers shorten titles, put them in quotes and compare them with others, and all that is read here.
A student's answer must satisfy ``match_title`` instead.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.reasoning.parsing import ParseFailure
from msrrec.reasoning.weighing import Weighing, weigh
from msrrec.titles import (
    clean_title,
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
_GOES_ON = re.compile(r"[ \t]+(\d{1,3}|[IVX]{2,4}|[A-Z]\w+)\b(?![.)]\s)")
"""A number or a capital after a title, as in ``Toy Story 2``."""
_OF_PROSE = frozenset(
    (
        *("Is", "Was", "As", "The", "This", "That", "It", "Its", "And", "Or", "But", "For", "From"),
        *("With", "Because", "Since", "Due", "By", "To", "In", "On", "Has", "Fits", "Matches"),
        *("Reason", "Reasons", "Reasoning", "Rationale", "Why", "Summary", "Explanation", "Best"),
        *("User", "Users", "You", "We", "Given", "Based", "Would", "Will", "Over", "Not", "Than"),
    )
)
"""Words in capitals that may follow a title in prose."""
_HEAD_CHARS = 200
"""Number of characters of a line in which a label is searched."""
_MAX_NAMES = 50
"""Limit on names read per step, so that a huge text does not take too long."""


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


def read_recommendation(
    step: str, candidates: Sequence[str], shown: Sequence[str] = ()
) -> NamedChoice | ParseFailure:
    """The candidate that the recommending step names, or why none.

    The first rule that finds a candidate decides:

    1. title: the first line or sentence is a title.
    2. begins: the step begins with a title and continues after a full stop, a dash or the like.
    3. alone: exactly one labelled, quoted or bold text is a title.
    4. recommended: exactly one title is in the recommending sentences.
    5. opening: the step begins with a title.
    6. mention: exactly one title is mentioned.
    7. number: exactly one list number such as ``(3)`` is mentioned, and no title.

    No rule gives a candidate that the prose rules out ("X is less suitable than Y"), or one that it
    sets aside for another that it chooses ("X is good, but I recommend Y"), see ``weigh``; nor does
    the beginning count where the same sentence goes on to another ("X or Y", "X fits, but Y").

    Titles that stand alone may be shortened as in ``match_short_title``. If a list number belongs
    to another candidate, the step is ambiguous. A title that goes on with a number or a capital, as
    in ``Toy Story 2``, is another item's.

    Args:
        step: The step's text.
        candidates: Titles.
        shown: Other titles that the prompt shows. One in which a candidate's lies is told apart
            from it, and is no candidate.
    """
    step = step.strip()
    choice = _find_choice(step, [*candidates, *_longer_shown(candidates, shown)])
    if isinstance(choice, ParseFailure):
        return choice
    if choice.index >= len(candidates) or _goes_on(step, candidates[choice.index]):
        return ParseFailure("not_a_candidate", "another item's title")
    listed = _LISTED.match(step.lstrip("\"'*_"))
    number = int(listed.group(1)) if listed else choice.index + 1
    is_other = number != choice.index + 1 and 1 <= number <= len(candidates)
    if is_other and not normalize_title(candidates[choice.index]).startswith(f"({number})"):
        return ParseFailure("ambiguous", "number and title differ")
    return choice


def _longer_shown(candidates: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Titles that are no candidates, and in which a candidate's lies."""
    wanted = {normalize_title(title) for title in candidates}
    forms = {normalize_title(title): title for title in shown}
    return [
        title
        for form, title in forms.items()
        if form not in wanted and any(inner and inner in form for inner in wanted)
    ]


def _goes_on(step: str, title: str) -> bool:
    """Whether every mention of a title goes on with a number or a capital, as another title does.

    A year, and a word that prose begins with, say nothing.
    """
    words = clean_title(title).split()
    if _is_named_alone(step, " ".join(words)):
        return False
    pattern = r"[ \t]+".join(map(re.escape, words))
    mentions = re.findall(rf"(?<!\w)(?i:{pattern})(?!\w)(?:{_GOES_ON.pattern})?", step)
    return bool(mentions) and all(word and word not in _OF_PROSE for word in mentions)


def _is_named_alone(step: str, title: str) -> bool:
    """Whether the first mention, spelled like the title, goes on with no number and no capital.

    It decides for most steps without a pattern of their own, which takes long to compile.
    """
    begin, end = step.find(title), step.find(title) + len(title)
    beside = step[max(begin - 1, 0) : begin] + step[end : end + 1]
    is_whole = begin >= 0 and not any(char.isalnum() or char == "_" for char in beside)
    return is_whole and not _GOES_ON.match(step, end)


def strip_label(line: str) -> str:
    """A line without a label before what it names, such as ``Final answer:``."""
    label = _NAMING_LABEL.match(line[:_HEAD_CHARS])
    return line[label.end() :] if label else line


def _find_choice(step: str, candidates: Sequence[str]) -> NamedChoice | ParseFailure:
    whole = match_title(step, candidates)
    if whole is not None:  # no prose that could rule it out
        return NamedChoice(whole, "title")
    found = find_titles(step, candidates, short=True)
    weighed = weigh(step, candidates)
    for rule, indices in _iter_rules(step, found, weighed, candidates):
        open_ones = [i for i in indices if i not in weighed.ruled_out]
        if len(open_ones) == 1 and weighed.chosen <= set(open_ones):
            return NamedChoice(open_ones[0], rule)
    if found and set(found) <= weighed.ruled_out:
        return ParseFailure("not_a_candidate", "only ruled out")
    if found:
        return ParseFailure("ambiguous", f"{len(found)} candidates named")
    return _find_number(step, candidates)


def _iter_rules(
    step: str, found: Sequence[int], weighed: Weighing, candidates: Sequence[str]
) -> Iterator[tuple[Rule, Sequence[int]]]:
    """Each rule, and the candidates that it finds."""
    first_line = step.splitlines()[0] if step else ""
    for form in (first_line, re.split(r"(?<=[.!?])\s", first_line)[0]):
        index = match_title(form, candidates)
        if index is not None:
            yield "title", [index]
    begun = [i for i in found if _begins_with(step, i, candidates) and i not in weighed.doubted]
    yield (
        "begins",
        [i for i in begun if _begins_with(step, i, candidates, r"\W*[.:;,!?()\-\"'*]")],
    )
    yield "alone", _named_alone(step, candidates)
    yield "recommended", sorted(weighed.chosen)
    yield "opening", begun
    yield "mention", found if len(found) == 1 else []


def _find_number(step: str, candidates: Sequence[str]) -> NamedChoice | ParseFailure:
    """The candidate whose list number alone is mentioned, and not ruled out."""
    numbers = {int(number) for number in _LISTED.findall(step)}
    if len(numbers) == 1 and 1 <= min(numbers) <= len(candidates):
        index = min(numbers) - 1
        if index not in weigh(step, candidates, by_number=True).ruled_out:
            return NamedChoice(index, "number")
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


def _begins_with(step: str, index: int, candidates: Sequence[str], then: str = r"(?!\w)") -> bool:
    """Whether the step's first words are a candidate's title, followed by a pattern.

    Not where they may be another's that goes on.
    """
    plain = fold_text(strip_number(step))
    begun = re.match(rf"\W*{re.escape(normalize_title(candidates[index]))}(?={then})", plain)
    return bool(begun and meant_by(index, plain[begun.end() :], candidates) == {index})
