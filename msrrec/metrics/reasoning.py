"""Metrics of a reasoning by itself: complete, grounded, free of contradiction, not formulaic.

They need neither a reference nor a model; such metrics are in ``text`` and ``judge``.
"""

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, get_args

from msrrec.metrics.claims import Truth, check_claims
from msrrec.metrics.distinct import DistinctCount
from msrrec.metrics.statistics import Share, mean_interval, wilson
from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import Chain, parse_chain
from msrrec.reasoning.prompts import STEPS, Side
from msrrec.schema import Example, Item
from msrrec.titles import find_titles, normalize_title

_QUOTED = re.compile(r'"([^"\n]{3,200})"|“([^”\n]{3,200})”|\*\*([^*\n]{3,200})\*\*')
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_HEADINGS = {normalize_title(name) for names in STEPS.values() for name in names}


class Reasoned(Protocol):
    """The parts of an output that are measured: side, reasoning and 0-based candidate."""

    @property
    def side(self) -> str:
        """The side that wrote it; outputs without a chain are left out."""
        ...

    @property
    def reasoning(self) -> str:
        """The text between the markers."""
        ...

    @property
    def index(self) -> int | None:
        """The candidate that the answer names; None for an invalid output."""
        ...


@dataclass(frozen=True)
class ReasoningMetrics:
    """Metrics of the reasonings of one variant.

    Attributes:
        num_users: Number of outputs that should have a chain.
        complete: Share of outputs with all steps of the chain.
        grounded: Share of cited titles that are in history or candidates; None if nothing is cited.
        num_cited: Number of cited titles over all users.
        contradicted: Share of outputs whose recommending step and answer name different candidates,
            of those where both name one; None if there are none.
        unique_sentences: Share of different sentences among all sentences of all users; None
            without sentences.
        num_words: Number of words per reasoning.
        true_lists: Share of lists such as ``From Tools: (2), (5)`` that name just the candidates of
            their category, or of a word only candidates with it; None if there are none.
        num_lists: Number of such lists over all users.
        true_labels: Share of labels such as ``(1) Tools`` that are their candidate's category, or
            a word that its title shares with the history, see ``Claims``.
        num_labels: Number of such labels over all users.
        named_labels: Share of the candidates with a category, or with a word that they share with
            the history, that a true label names, where chains label candidates; None if there are
            none. ``true_labels`` is their precision, this their recall.
        num_to_label: Number of such candidates over all users.
        true_wants: Share of statements such as ``After Tools, customers mostly buy Baby``, or ``The
            user mostly buys Tools``, that are true; None if there are none.
        num_wants: Number of such statements over all users.
    """

    num_users: int
    complete: Share | None
    grounded: Share | None
    num_cited: int
    contradicted: Share | None
    unique_sentences: float | None
    num_words: Share | None
    true_lists: Share | None = None
    num_lists: int = 0
    true_labels: Share | None = None
    num_labels: int = 0
    named_labels: Share | None = None
    num_to_label: int = 0
    true_wants: Share | None = None
    num_wants: int = 0


@dataclass(frozen=True)
class _Reading:
    """Measurements of one reasoning; ``contradicted`` is None if chain or answer names nothing."""

    is_complete: bool
    num_cited: int
    num_grounded: int
    contradicted: bool | None
    sentences: tuple[str, ...]
    num_words: int


def reasoning_metrics(
    items: Mapping[str, Item],
    examples: Sequence[Example],
    outputs: Sequence[Reasoned],
    followers: Mapping[str, Sequence[str]] | None = None,
) -> ReasoningMetrics | None:
    """All metrics over the outputs that should have a chain; None if there are none.

    Args:
        items: The catalogue.
        examples: One example per user.
        outputs: One output per example, in their order.
        followers: The categories that are wanted after each, most wanted first, where the rules of
            a generated world say so.
    """
    tally = ReasoningTally(items, followers)
    tally.add(examples, outputs)
    return tally.result()


class ReasoningTally:
    """What ``reasoning_metrics`` needs of the users so far: counts, and 16 bytes a user.

    Users are added in partitions. Sentences are counted by a ``DistinctCount``.
    """

    def __init__(
        self, items: Mapping[str, Item], followers: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """See ``reasoning_metrics``."""
        self._items, self._truth = items, Truth.of(items, followers)
        self._num_users = self._num_complete = self._num_cited = 0
        self._grounded, self._num_words = array("d"), array("d")
        self._contradicted, self._lists, self._labels = (Counter[bool]() for _ in range(3))
        self._named, self._wants = Counter[bool](), Counter[bool]()
        self._sentences, self._num_sentences = DistinctCount(), 0

    def add(self, examples: Sequence[Example], outputs: Sequence[Reasoned]) -> None:
        """Add users; outputs that should have no chain are left out."""
        for example, output in zip(examples, outputs, strict=True):
            if side := _chain_side(output.side):
                self._add(_read(self._items, example, output, side))
                claims = check_claims(output.reasoning, example, self._truth)
                self._lists.update(claims.lists)
                self._labels.update(claims.labels)
                self._named.update(claims.named)
                self._wants.update(claims.wants)

    def _add(self, row: "_Reading") -> None:
        self._num_users += 1
        self._num_complete += row.is_complete
        self._num_cited += row.num_cited
        if row.num_cited:
            self._grounded.append(row.num_grounded / row.num_cited)
        if row.contradicted is not None:
            self._contradicted[row.contradicted] += 1
        self._sentences.add(row.sentences)
        self._num_sentences += len(row.sentences)
        self._num_words.append(row.num_words)

    def result(self) -> ReasoningMetrics | None:
        """The metrics of all users that were added; None without any output with a chain."""
        if not self._num_users:
            return None
        unique, total = self._sentences.count, self._num_sentences
        return ReasoningMetrics(
            num_users=self._num_users,
            complete=wilson(self._num_complete, self._num_users),
            grounded=mean_interval(self._grounded),
            num_cited=self._num_cited,
            contradicted=_share(self._contradicted),
            unique_sentences=min(unique / total, 1.0) if total else None,
            num_words=mean_interval(self._num_words),
            true_lists=_share(self._lists),
            num_lists=self._lists.total(),
            true_labels=_share(self._labels),
            num_labels=self._labels.total(),
            named_labels=_share(self._named),
            num_to_label=self._named.total(),
            true_wants=_share(self._wants),
            num_wants=self._wants.total(),
        )


_SIDES: tuple[Side, ...] = get_args(Side)


def _chain_side(side: str) -> Side | None:
    """The side whose chain an output should have; None where it should have none."""
    return next((name for name in _SIDES if name == side and STEPS[name]), None)


def _read(items: Mapping[str, Item], example: Example, output: Reasoned, side: Side) -> _Reading:
    reasoning = output.reasoning
    candidates = [items[item_id].title for item_id in example.candidates]
    chain = _parse(reasoning, side)
    last = chain.steps[-1] if isinstance(chain, Chain) else ""
    named = parse_recommendation(last, candidates) if last else None
    cited = cited_titles(reasoning)
    shown = [*candidates, *(items[item_id].title for item_id in example.history)]
    grounded = sum(is_grounded(title, shown) for title in cited)
    both = isinstance(named, int) and output.index is not None
    return _Reading(
        is_complete=isinstance(chain, Chain),
        num_cited=len(cited) + bool(last),  # a recommending step always cites a title
        num_grounded=grounded + bool(last and find_titles(last, candidates)),
        contradicted=named != output.index if both else None,
        sentences=tuple(s.strip() for s in _SENTENCE.split(reasoning) if s.strip()),
        num_words=len(reasoning.split()),
    )


_parse = lru_cache(maxsize=1 << 14)(parse_chain)
"""Of some thousand users, each chain is parsed once: fusion repeats what one of its sides wrote."""


def cited_titles(reasoning: str) -> list[str]:
    """Texts that are marked as titles: two or more words in quotes or bold, and no step's name."""
    spans = (next(filter(None, groups)).strip('"“” ') for groups in _QUOTED.findall(reasoning))
    return [s for s in spans if len(s.split()) > 1 and normalize_title(s) not in _HEADINGS]


def is_grounded(cited: str, titles: Sequence[str]) -> bool:
    """Whether a cited text is one of ``titles``, or a part of one, as long ones are often cut."""
    wanted = normalize_title(cited)
    pattern = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    return bool(wanted) and any(pattern.search(normalize_title(t)) for t in titles)


def _share(flags: Counter[bool]) -> Share | None:
    return wilson(flags[True], flags.total())
