"""Which candidate a teacher's answer names, in all that it says after its chain.

An answer may be a title alone, dressed in a label, a fence or JSON, or prose that changes its mind.
A student's answer is held to ``match_title`` instead.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from msrrec.reasoning.choice import read_recommendation, strip_label
from msrrec.reasoning.parsing import ParseFailure
from msrrec.titles import find_titles, read_title

_MAX_LINES = 50
"""Limit on lines read per answer, so that a huge one does not take too long."""
_TITLE_WORDS = 12
"""Maximum number of words of a line that may be an unknown title."""
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_BOXED = re.compile(r"\\boxed\s?\{(?:\\text\w{0,3}\s?\{)?([^{}\n]{0,400})\}{1,2}")
_TAG = re.compile(r"<[/|]?\w[^<>\n]{0,40}>")
_NONE = re.compile(
    r"\b(?:none|neither|nothing|no (?:candidate|item|option|recommendation|answer))\b",
    re.IGNORECASE,
)
_WORDS_OF_PROSE = frozenset(
    (
        *("i", "you", "your", "it", "its", "this", "that", "these", "those", "they", "he", "she"),
        *("we", "is", "are", "was", "were", "be", "has", "have", "had", "will", "would", "can"),
        *("could", "should", "hope", "hopes", "thanks", "thank", "please", "let", "know", "enjoy"),
        *("happy", "glad", "help", "helps", "helped", "feel", "done", "end", "ok", "okay", "yes"),
        *("sure", "because", "as", "since", "so", "good", "luck", "best", "regards", "cheers"),
        *("great", "there", "here", "wait", "hm", "hmm", "answer", "final", "recommendation"),
    )
)


def read_answer(
    answer: str, candidates: Sequence[str], shown: Sequence[str] = ()
) -> int | ParseFailure | None:
    """The 0-based candidate that a teacher's answer names; why none; None where it says nothing.

    Line by line: the first that names a candidate in any way, and every later one that does so as a
    title alone, after a label such as ``Final answer:`` or with a word such as ``recommend``. The
    last of them decides. An answer in which one line names two, or a number and another's title, is
    ambiguous. One that names an item that is no candidate, or takes its own back, is
    ``not_a_candidate``. Courtesies and prose without a name say nothing.

    Args:
        answer: What the teacher says after its chain.
        candidates: Titles.
        shown: Other titles that the prompt shows, see ``read_recommendation``.
    """
    found: int | ParseFailure | None = None
    for line in _iter_lines(answer):
        named = _read_line(line, candidates, shown, found)
        found = found if named is None else named
    return found


def _iter_lines(answer: str) -> Iterator[str]:
    """The lines in which something is said, without their dress."""
    plain = _TAG.sub(" ", _BOXED.sub(r"\1", _FENCE.sub("", answer)))
    lines = (line for line in plain.splitlines() if re.search(r"\w", line))
    yield from islice(lines, _MAX_LINES)


def _read_line(
    line: str,
    candidates: Sequence[str],
    shown: Sequence[str],
    before: int | ParseFailure | None,
) -> int | ParseFailure | None:
    said = strip_label(line)
    number = read_title(said, candidates)
    if number.rung == "number":
        return number.index if before is None or said != line else None
    choice = read_recommendation(line, candidates, shown)
    if not isinstance(choice, ParseFailure):
        is_plain = choice.rule in ("title", "recommended") or said != line
        return choice.index if before is None or is_plain else None
    if before is not None:
        is_taken_back = bool(choice.detail) and before in find_titles(line, candidates)
        return choice if said != line or is_taken_back else None
    return choice if choice.detail or _names_other(line, said) else None


def _names_other(line: str, said: str) -> bool:
    """Whether a line that names no candidate is a title or a number of something else."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", said)
    if _NONE.search(said) or (said != line and words):
        return True
    is_bare = len(words) <= _TITLE_WORDS and not said.rstrip("*_ \t").endswith((":", "!", "?"))
    is_capital = all(word[0].isupper() or word[0].isdigit() for word in words if len(word) > 3)
    is_prose = bool({word.lower() for word in words} & _WORDS_OF_PROSE)
    return bool(words) and is_bare and (not is_prose or (is_capital and len(words) > 2))
