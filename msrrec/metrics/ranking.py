"""HitRatio@1 and ValidRatio, in total and by group; HR@k, NDCG@k and MRR of full rankings.

HitRatio@1 counts invalid outputs as misses (hits over all users), as in the paper. There is one
target per user, so HR@k equals Recall@k, and the ideal DCG is 1.

Candidates with equal scores have no order. HR@k, NDCG@k and MRR are expected values over random
orders of ties, so equal scores for all candidates are worth a random ranking. HitRatio@1 concerns
only the chosen candidate, whatever it ties with.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial

import numpy as np

from msrrec.metrics.statistics import (
    Share,
    independence_p_value,
    mean_interval,
    uniform_p_value,
    wilson,
)
from msrrec.schema import Example

CUTOFFS = (1, 3, 5, 10)
"""Values of k for HR@k and NDCG@k."""

NOT_FOUND = 1 << 62
"""The rank of a target that is no candidate, as retrieval did not find it: beyond any list."""

Scores = Sequence[float] | None
"""One score per candidate, in the frozen order, higher is better; None without scores."""


@dataclass(frozen=True)
class Slots:
    """Choices and hits by position in the candidate list; one entry per position.

    Attributes:
        num_users: Number of users whose target is at the position.
        hit_ratio: HitRatio@1 of those users; None if there are none.
        num_chosen: Number of choices at the position, right or wrong.
        uniform_p_value: P-value of equal choice of all positions; None without a valid choice.
        hit_p_value: P-value of equal HitRatio@1 at all positions; None if it can't be tested.
    """

    num_users: tuple[int, ...]
    hit_ratio: tuple[Share | None, ...]
    num_chosen: tuple[int, ...]
    uniform_p_value: float | None
    hit_p_value: float | None


@dataclass(frozen=True)
class Group:
    """HitRatio@1 of the users whose count is between ``low`` and ``high``, both included.

    ``high`` is None if the group has no upper end.
    """

    low: int
    high: int | None
    num_users: int
    hit_ratio: Share | None


@dataclass(frozen=True)
class Groups:
    """Users grouped by a count, and the p-value of equal HitRatio@1 in all groups."""

    rows: tuple[Group, ...]
    p_value: float | None


@dataclass(frozen=True)
class FullRanking:
    """Metrics of full rankings over all users.

    Attributes:
        num_scored: Number of users with scores; the others get the last rank.
        hr: HR@k by k.
        ndcg: NDCG@k by k.
        mrr: Mean reciprocal rank.
    """

    num_scored: int
    hr: dict[int, Share]
    ndcg: dict[int, Share]
    mrr: Share


@dataclass(frozen=True)
class RankMetrics:
    """Metrics of the choices of one system.

    Attributes:
        num_users: Number of users, invalid outputs included.
        num_hits: Number of users whose target was chosen.
        num_valid: Number of users with a valid choice.
        hit_ratio: Hits over all users.
        valid_ratio: Valid choices over all users.
        hit_ratio_valid: Hits over users with a valid choice; None if there are none.
        hit_ratio_fallback: Expected HitRatio@1 if a random candidate replaces each invalid choice.
        slots: Choices and hits by position in the candidate list.
        history_length: HitRatio@1 by length of the history.
        popularity: HitRatio@1 by number of training users of the target; None if not computed.
        ranking: Metrics of full rankings; None without scores.
        hit_bits: One bit per user, see ``pack_bits``.
    """

    num_users: int
    num_hits: int
    num_valid: int
    hit_ratio: Share
    valid_ratio: Share
    hit_ratio_valid: Share | None
    hit_ratio_fallback: Share
    slots: Slots
    history_length: Groups
    popularity: Groups | None
    ranking: FullRanking | None
    hit_bits: str

    @property
    def hits(self) -> list[bool]:
        """Whether each user's target was chosen, in the order of the examples."""
        return unpack_bits(self.hit_bits, self.num_users)


_LENGTHS = ((1, 2), (3, 4), (5, 9), (10, None))
BUYERS = ((0, 0), (1, 1), (2, 4), (5, 9), (10, None))


def hits(examples: Sequence[Example], choices: Sequence[str | None]) -> list[bool]:
    """Whether each choice (an item id, None for an invalid output) is its example's target."""
    return [e.target == choice for e, choice in zip(examples, choices, strict=True)]


def rank_metrics(
    examples: Sequence[Example],
    choices: Sequence[str | None],
    buyers: Mapping[str, int] | None = None,
    scores: Sequence[Scores] | None = None,
) -> RankMetrics:
    """Counts, HitRatio@1 over all users and among valid ones, ValidRatio, and groups of users.

    Args:
        examples: One example per user, at least one.
        choices: The chosen item id of each example; None if the output is invalid.
        buyers: Number of training users of every item, for groups by popularity; None for no such
            groups.
        scores: Scores of the candidates of each example, for full rankings; None for no rankings.
    """
    tally = RankTally(buyers, with_scores=scores is not None)
    tally.add(examples, choices, scores)
    return tally.result()


class RankTally:
    """What ``rank_metrics`` needs of the users so far: counts, and some tens of bytes a user.

    Users are added in partitions; the result is that of one call with all of them.
    """

    def __init__(self, buyers: Mapping[str, int] | None = None, *, with_scores: bool) -> None:
        self._with_scores = with_scores
        self._is_hit, self._fallback = bytearray(), array("d")
        self._first_ranks, self._last_ranks = array("q"), array("q")
        self._num_valid = self._num_scored = 0
        self._targets, self._slot_hits = Counter[int](), Counter[int]()
        self._chosen, self._longest = Counter[int](), 0
        self._lengths = GroupTally(lambda e: len(e.history), _LENGTHS)
        self._popularity = (
            None if buyers is None else GroupTally(lambda e: buyers.get(e.target, 0), BUYERS)
        )

    def add(
        self,
        examples: Sequence[Example],
        choices: Sequence[str | None],
        scores: Sequence[Scores] | None = None,
    ) -> None:
        """Add users; arguments as of ``rank_metrics``."""
        is_hit = hits(examples, choices)
        self._is_hit += bytes(is_hit)
        self._num_valid += sum(choice is not None for choice in choices)
        self._fallback.extend(_fallback(examples, choices))
        self._add_slots(examples, choices, is_hit)
        self._lengths.add(examples, is_hit)
        if self._popularity:
            self._popularity.add(examples, is_hit)
        for example, found in zip(examples, scores or (), strict=scores is not None):
            last = len(example.candidates) if example.target_slot >= 0 else NOT_FOUND
            ranks = target_ranks(example, found) if found else range(last, last + 1)
            self._first_ranks.append(ranks.start)
            self._last_ranks.append(ranks.stop - 1)
            self._num_scored += bool(found)

    def _add_slots(
        self,
        examples: Sequence[Example],
        choices: Sequence[str | None],
        is_hit: Sequence[bool],
    ) -> None:
        for example, choice, hit in zip(examples, choices, is_hit, strict=True):
            self._longest = max(self._longest, len(example.candidates))
            if (slot := example.target_slot) >= 0:
                self._targets[slot] += 1
                self._slot_hits[slot] += hit
            if choice is not None:
                self._chosen[example.candidates.index(choice)] += 1

    def result(self) -> RankMetrics:
        """The metrics of all users that were added, of whom there is at least one."""
        num_users, num_hits = len(self._is_hit), sum(self._is_hit)
        return RankMetrics(
            num_users=num_users,
            num_hits=num_hits,
            num_valid=self._num_valid,
            hit_ratio=_known_share(num_hits, num_users),
            valid_ratio=_known_share(self._num_valid, num_users),
            hit_ratio_valid=wilson(num_hits, self._num_valid),
            hit_ratio_fallback=_mean(self._fallback),
            slots=self._slots(),
            history_length=self._lengths.result(),
            popularity=self._popularity.result() if self._popularity else None,
            ranking=self._full_ranking() if self._num_scored else None,
            hit_bits=pack_bits(self._is_hit),
        )

    def _slots(self) -> Slots:
        targets, slot_hits, chosen = (
            [counts[slot] for slot in range(self._longest)]
            for counts in (self._targets, self._slot_hits, self._chosen)
        )
        return Slots(
            num_users=tuple(targets),
            hit_ratio=tuple(wilson(h, n) for h, n in zip(slot_hits, targets, strict=True)),
            num_chosen=tuple(chosen),
            uniform_p_value=uniform_p_value(chosen),
            hit_p_value=independence_p_value(slot_hits, targets),
        )

    def _full_ranking(self) -> FullRanking:
        """HR@k, NDCG@k and MRR over all users; a user without scores has the last rank.

        Cutoffs that include whole candidate lists are left out.
        """
        cutoffs = [k for k in CUTOFFS if k < self._longest]
        return FullRanking(
            num_scored=self._num_scored,
            hr={k: self._expected(partial(hr_at_k, k=k)) for k in cutoffs},
            ndcg={k: self._expected(partial(ndcg_at_k, k=k)) for k in cutoffs},
            mrr=self._expected(reciprocal_ranks),
        )

    def _expected(self, metric: Callable[[Sequence[int]], list[float]]) -> Share:
        """Mean over users of a metric's expected value over the target's possible ranks."""

        @cache
        def expected(first: int, last: int) -> float:
            possible = range(first, last + 1)
            return math.fsum(metric(possible)) / len(possible)

        return _mean(array("d", map(expected, self._first_ranks, self._last_ranks)))


class GroupTally:
    """Users and hits by ranges of a count, both ends included."""

    def __init__(
        self, measure: Callable[[Example], int], bounds: Sequence[tuple[int, int | None]]
    ) -> None:
        self._measure, self._bounds = measure, bounds
        self._users, self._hits = [0] * len(bounds), [0] * len(bounds)

    def add(self, examples: Sequence[Example], is_hit: Sequence[bool]) -> None:
        for example, hit in zip(examples, is_hit, strict=True):
            value = self._measure(example)
            for n, (low, high) in enumerate(self._bounds):
                if low <= value and (high is None or value <= high):
                    self._users[n] += 1
                    self._hits[n] += hit

    def result(self) -> Groups:
        """HitRatio@1 of each range, and a test of equality."""
        rows = tuple(
            Group(low, high, n, wilson(h, n))
            for (low, high), n, h in zip(self._bounds, self._users, self._hits, strict=True)
        )
        return Groups(rows, independence_p_value(self._hits, self._users))


@dataclass(frozen=True)
class LenientMetrics:
    """HitRatio@1 and ValidRatio of the same outputs where they are read leniently."""

    num_hits: int
    num_valid: int
    hit_ratio: Share
    valid_ratio: Share


def lenient_metrics(examples: Sequence[Example], choices: Sequence[str | None]) -> LenientMetrics:
    """Counts and shares over all users; arguments as in ``rank_metrics``."""
    tally = LenientTally()
    tally.add(examples, choices)
    return tally.result()


class LenientTally:
    """The counts of ``lenient_metrics``, to which users are added in partitions."""

    def __init__(self) -> None:
        self._num_users = self._num_hits = self._num_valid = 0

    def add(self, examples: Sequence[Example], choices: Sequence[str | None]) -> None:
        """Add users; arguments as in ``rank_metrics``."""
        self._num_users += len(examples)
        self._num_hits += sum(hits(examples, choices))
        self._num_valid += sum(choice is not None for choice in choices)

    def result(self) -> LenientMetrics:
        """The metrics of all users that were added, of whom there is at least one."""
        return LenientMetrics(
            num_hits=self._num_hits,
            num_valid=self._num_valid,
            hit_ratio=_known_share(self._num_hits, self._num_users),
            valid_ratio=_known_share(self._num_valid, self._num_users),
        )


def _fallback(examples: Sequence[Example], choices: Sequence[str | None]) -> list[float]:
    """A user's hit, or chance of a random hit where the choice is invalid."""
    return [
        (example.target_slot >= 0) / len(example.candidates)
        if choice is None
        else float(choice == example.target)
        for example, choice in zip(examples, choices, strict=True)
    ]


def pack_bits(flags: Sequence[int]) -> str:
    """One bit per user as hexadecimal digits, so that evaluations can be compared user by user."""
    return np.packbits(np.array(flags, dtype=bool)).tobytes().hex()


def unpack_bits(text: str, count: int) -> list[bool]:
    """The inverse of ``pack_bits`` for ``count`` users."""
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return [bool(bit) for bit in np.unpackbits(packed, count=count)]


def chance(examples: Sequence[Example]) -> float:
    """The expected HitRatio@1 of a random candidate; 0 without examples."""
    return chance_by_length(Counter(len(example.candidates) for example in examples))


def chance_by_length(num_candidates: Mapping[int, int]) -> float:
    """The expected HitRatio@1 of a random candidate; 0 without users.

    Args:
        num_candidates: Number of users by length of the candidate list.
    """
    # The exact sum of one share a user, rounded once.
    total = sum(Fraction(1 / length) * count for length, count in num_candidates.items())
    return float(total) / max(sum(num_candidates.values()), 1)


def target_rank(example: Example, scores: Sequence[float]) -> int:
    """The worst of ``target_ranks``, used to choose settings on validation."""
    return target_ranks(example, scores)[-1]


def target_ranks(example: Example, scores: Sequence[float]) -> range:
    """The possible 1-based ranks of the target over all orders of ties.

    A score that is NaN ranks before the target. A target that is no candidate has the rank
    ``NOT_FOUND``.

    Raises:
        ValueError: If there is not one score a candidate, or the target's is not a number.
    """
    if len(scores) != len(example.candidates):
        raise ValueError(
            f"{example.example_id}: {len(scores)} scores for {len(example.candidates)} candidates"
        )
    if example.target_slot < 0:
        return range(NOT_FOUND, NOT_FOUND + 1)
    own = scores[example.target_slot]
    if math.isnan(own):
        raise ValueError(f"{example.example_id}: the target's score is not a number")
    before = sum(not score <= own for score in scores)
    return range(before + 1, before + sum(score == own for score in scores) + 1)


def hr_at_k(ranks: Sequence[int], k: int) -> list[float]:
    """1 for each 1-based rank up to k, else 0."""
    return [float(rank <= k) for rank in ranks]


def ndcg_at_k(ranks: Sequence[int], k: int) -> list[float]:
    """1 / log2(rank + 1) for each 1-based rank up to k, else 0."""
    return [1 / math.log2(rank + 1) if rank <= k else 0.0 for rank in ranks]


def reciprocal_ranks(ranks: Sequence[int]) -> list[float]:
    """1 / rank of each, and 0 where the target was not found; their mean is the MRR."""
    return [0.0 if rank == NOT_FOUND else 1 / rank for rank in ranks]


def _mean(values: Sequence[float]) -> Share:
    share = mean_interval(values)
    assert share is not None  # there is at least one user
    return share


def _known_share(count: int, total: int) -> Share:
    share = wilson(count, total)
    assert share is not None  # there is at least one user
    return share
