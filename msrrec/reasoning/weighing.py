"""What prose says for and against each of the candidates that it mentions.

Sentences are read clause by clause, with a placeholder in place of every title, so that no word of
a title counts as one of the prose.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from msrrec.titles import find_mentions, fold_text

_MAX_SENTENCES = 50
"""Limit on sentences read per text, so that a huge one does not take too long."""
_NAME = r"\0(\d+(?:,\d+)*)\0"
_SHOWN = r"[\s\"'*_(\[]*(?:(?:the|a|an|either|both|candidates?|items?|options?)[\s\"'*_(\[]+){0,2}"
_JOINED = r"[\s\"'*_)\]]*(?:,\s?(?:and|or)?|/|\||&|\band|\bor|\bvs\.?|\bversus)"
_NAMES = re.compile(rf"{_SHOWN}{_NAME}(?:{_JOINED}{_SHOWN}{_NAME})*[\"'*_)\]]*")
_OPENING_NAMES = re.compile(rf"{_SHOWN}{_NAME}(?:\s(?:and|or)\b{_SHOWN}{_NAME})*[\"'*_)\]]*")
"""Without commas, as one ends what a sentence begins with."""
_INDEX = re.compile(_NAME)
_LISTED = re.compile(r"\((\d{1,3})\)")
_TIED = re.compile(rf"{_NAME}{_JOINED}{_SHOWN}{_NAME}")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'*_)]*\s+|\n")
_CHOOSING = re.compile(
    r"\b(?:recommend\w*|choos\w+|chosen?|chose|select\w*|pick\w*|best|go(?:ing)? (?:with|for)|"
    r"opt(?:ing)? for|winner|wins?|prefer\w*|settle on)\b|推荐|推薦"
)
_CLAUSE = re.compile(
    r"(?:,\s)?\b(?:but|yet|however|nevertheless|nonetheless|(?:even )?(?:though|if)|whereas|"
    r"although|while|because|since)\b|;|,\s(?:and|so|hence|thus|therefore|as|which|who)\b"
)
_OPPOSING = re.compile(r"\W*(?:but|yet|however|nevertheless|nonetheless)\b")
_CONCEDING = re.compile(r"\W*(?:(?:even )?though|although|while|whereas|even if)\b")
_NO = re.compile(r"\W*(?:no|nope|not quite)\b(?! \0)")
_EXCEPT = re.compile(r"\b(?:anything|everything|all|any|none|nothing) but\b")
_AGAINST = re.compile(
    r"\b(?:not(?! only| just| merely| simply)|no|over|rather than|instead of|in place of|than|"
    r"except(?: for)?|apart from|other than|unlike|compared (?:to|with)|as opposed to)\b"
)
_WORSE = re.compile(
    r"\b(?:less (?:suitable|suited|likely|relevant|fitting|appropriate|aligned|ideal|compelling|"
    r"appealing|attractive|convincing)|not (?:as|so) \w+"
    r"|(?:worse|weaker|inferior|poorer)(?= (?:\w+ )?(?:than|to|fit|match|choice|option)\b))\b"
)
_DENIED = re.compile(
    r"(?:\b(?:never|neither|nor|cannot|no longer)|n't"
    r"|\b(?:is|are|was|were|be|been|do|does|did|would|will|could|can|should|may|might|has|have|i)"
    r" not)\b(?! only| just| merely| simply)(?P<rest>.{0,60})"
)
_FITTING = re.compile(
    r"\b(?:recommend\w*|pick\w*|choos\w*|choice|chosen|select\w*|suit\w*|fit\w*|match\w*|best|"
    r"right|ideal|good|great|appropriate|optimal|option|go with|opt for|align\w*|what|the one|"
    r"prefer\w*|want\w*|like|enjoy)\b"
)
_DISMISSED = re.compile(
    r"\b(?:ruled? out|rejected|dismissed|discarded|excluded|eliminated|unsuitable|"
    r"(?:avoid|skip)(?= \W{0,4}\0)|(?:poor|bad|wrong) (?:fit|match|choice))\b"
)


@dataclass(frozen=True)
class Weighing:
    """Candidates as 0-based indices, by what a text says of them.

    Attributes:
        chosen: Those that a clause recommends, chooses or calls the best.
        ruled_out: Those that a clause denies or sets back behind another one, and none chooses.
        doubted: Those beside which the same sentence names another one as good: joined by ``or``,
            or in a clause after ``but``.
    """

    chosen: frozenset[int]
    ruled_out: frozenset[int]
    doubted: frozenset[int]


@dataclass(frozen=True)
class _Clause:
    """A clause of a sentence, and what the word before it makes of it."""

    text: str
    kind: Literal["plain", "opposing", "conceding"]


@dataclass
class _Tally:
    """The sets of a ``Weighing`` while they grow."""

    chosen: set[int]
    ruled_out: set[int]
    doubted: set[int]


def weigh(text: str, candidates: Sequence[str], *, by_number: bool = False) -> Weighing:
    """What a text says for and against the candidates that it mentions.

    Args:
        text: Prose.
        candidates: Titles.
        by_number: Whether list numbers such as ``(3)`` are the mentions, in place of titles.
    """
    tally = _Tally(set(), set(), set())
    asked: set[int] = set()
    for sentence in _iter_sentences(text, candidates, by_number):
        named = _indices(sentence)
        if asked and _NO.match(sentence):
            tally.ruled_out |= asked
            tally.chosen |= named if len(named) == 1 else set()
        _weigh_sentence(_EXCEPT.sub("except", sentence), tally)
        asked = named if sentence.rstrip("\"'*_ )").endswith("?") else set()
    chosen = frozenset(tally.chosen)
    return Weighing(chosen, frozenset(tally.ruled_out) - chosen, frozenset(tally.doubted))


def _iter_sentences(text: str, candidates: Sequence[str], by_number: bool) -> Iterator[str]:
    """Folded sentences with the candidates' indices, between zeros, in place of their mentions."""
    lines = [line for line in text.splitlines() if line.strip()][:_MAX_SENTENCES]
    masked = "\n".join(_mask(line, candidates, by_number) for line in lines)
    yield from filter(str.strip, _SENTENCE_END.split(masked)[:_MAX_SENTENCES])


def _mask(line: str, candidates: Sequence[str], by_number: bool) -> str:
    plain = fold_text(line)
    if by_number:
        return _LISTED.sub(lambda found: f"\0{int(found.group(1)) - 1}\0", plain)
    parts, begin = [], 0
    for mention in find_mentions(plain, candidates, short=True):
        parts += [plain[begin : mention.start], f"\0{','.join(map(str, sorted(mention.meant)))}\0"]
        begin = mention.end
    return "".join([*parts, plain[begin:]])


def _indices(masked: str) -> set[int]:
    return {int(n) for found in _INDEX.findall(masked) for n in found.split(",")}


def _weigh_sentence(sentence: str, tally: _Tally) -> None:
    for tied in _TIED.finditer(sentence):
        tally.doubted |= _indices(tied.group())
    clauses = list(_iter_clauses(sentence))
    for n, clause in enumerate(clauses):
        named = _indices(clause.text)
        others = [other for other in clauses if _indices(other.text) - named]
        if clause.kind == "conceding" and others:
            tally.ruled_out |= named
            continue
        if any(other.kind == "opposing" for other in clauses[n + 1 :] if other in others):
            tally.doubted |= named
        _weigh_clause(clause.text, tally)


def _iter_clauses(sentence: str) -> Iterator[_Clause]:
    """The clauses of a sentence, each with the word before it."""
    cuts = [0, *(cut.start() for cut in _CLAUSE.finditer(sentence)), len(sentence)]
    for begin, end in pairwise(cuts):
        text = sentence[begin:end]
        head, comma, rest = text.partition(", ") if begin == 0 else (text, "", "")
        if _CONCEDING.match(text) and comma:  # "While A is good, I take B"
            yield _Clause(head, "conceding")
            yield _Clause(rest, "plain")
        elif _CONCEDING.match(text):
            yield _Clause(text, "conceding")
        else:
            yield _Clause(text, "opposing" if _OPPOSING.match(text) else "plain")


def _weigh_clause(clause: str, tally: _Tally) -> None:
    """Add what one clause says; what stands before a word such as ``over`` is its claim."""
    worse, denied = _WORSE.search(clause), _DENIED.search(clause)
    than = clause.find(" than ", worse.start()) if worse else -1
    against = _AGAINST.search(clause)
    claim, after = (clause[: against.start()], clause[against.end() :]) if against else (clause, "")
    if than >= 0:
        tally.ruled_out |= _indices(clause[:than])
        tally.chosen |= _indices(clause[than:])
    elif denied and _FITTING.search(denied.group("rest")):
        tally.ruled_out |= _indices(clause)
    elif worse or _DISMISSED.search(claim):
        tally.ruled_out |= _indices(claim)
    else:
        _weigh_claim(claim, after, tally)


def _weigh_claim(claim: str, after: str, tally: _Tally) -> None:
    is_opening = not claim.strip(" ,\"'*_")
    beaten = (_OPENING_NAMES if is_opening else _NAMES).match(after)
    tally.ruled_out |= _indices(beaten.group()) if beaten else set()
    if is_opening:  # "Instead of A, I take B"
        claim = after[beaten.end() :] if beaten else after.partition(", ")[2]
    if _CHOOSING.search(claim):
        tally.chosen |= _indices(claim)
