"""HitRatio@1 and ValidRatio, in total and by group; HR@k, NDCG@k and MRR of full rankings.

HitRatio@1 counts invalid outputs as misses (hits over all users), as in the paper. There is one
target per user, so HR@k equals Recall@k, and the ideal DCG is 1.

Candidates with equal scores have no order. HR@k, NDCG@k and MRR are expected values over random
orders of ties, so equal scores for all candidates are worth a random ranking. HitRatio@1 concerns
only the chosen candidate, whatever it ties with.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
_BUYERS = ((0, 0), (1, 1), (2, 4), (5, 9), (10, None))


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
    is_hit = hits(examples, choices)
    num_valid = sum(choice is not None for choice in choices)
    return RankMetrics(
        num_users=len(examples),
        num_hits=sum(is_hit),
        num_valid=num_valid,
        hit_ratio=_known_share(sum(is_hit), len(examples)),
        valid_ratio=_known_share(num_valid, len(examples)),
        hit_ratio_valid=wilson(sum(is_hit), num_valid),
        hit_ratio_fallback=_fallback(examples, choices),
        slots=_slots(examples, choices, is_hit),
        history_length=_groups(examples, is_hit, lambda e: len(e.history), _LENGTHS),
        popularity=None
        if buyers is None
        else _groups(examples, is_hit, lambda e: buyers.get(e.target, 0), _BUYERS),
        ranking=None if scores is None else _full_ranking(examples, scores),
        hit_bits=pack_bits(is_hit),
    )


@dataclass(frozen=True)
class LenientMetrics:
    """HitRatio@1 and ValidRatio of the same outputs where they are read leniently."""

    num_hits: int
    num_valid: int
    hit_ratio: Share
    valid_ratio: Share


def lenient_metrics(examples: Sequence[Example], choices: Sequence[str | None]) -> LenientMetrics:
    """Counts and shares over all users; arguments as in ``rank_metrics``."""
    num_hits = sum(hits(examples, choices))
    num_valid = sum(choice is not None for choice in choices)
    return LenientMetrics(
        num_hits=num_hits,
        num_valid=num_valid,
        hit_ratio=_known_share(num_hits, len(examples)),
        valid_ratio=_known_share(num_valid, len(examples)),
    )


def _fallback(examples: Sequence[Example], choices: Sequence[str | None]) -> Share:
    """HitRatio@1 plus a user's chance of a random hit wherever the choice is invalid."""
    return _mean(
        [
            1 / len(example.candidates) if choice is None else float(choice == example.target)
            for example, choice in zip(examples, choices, strict=True)
        ]
    )


def pack_bits(flags: Sequence[bool]) -> str:
    """One bit per user as hexadecimal digits, so that evaluations can be compared user by user."""
    return np.packbits(np.array(flags, dtype=bool)).tobytes().hex()


def unpack_bits(text: str, count: int) -> list[bool]:
    """The inverse of ``pack_bits`` for ``count`` users."""
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return [bool(bit) for bit in np.unpackbits(packed, count=count)]


def chance(examples: Sequence[Example]) -> float:
    """The expected HitRatio@1 of a random candidate; 0 without examples."""
    return math.fsum(1 / len(e.candidates) for e in examples) / max(len(examples), 1)


def _slots(
    examples: Sequence[Example], choices: Sequence[str | None], is_hit: Sequence[bool]
) -> Slots:
    num_slots = max((len(e.candidates) for e in examples), default=0)
    targets, slot_hits, chosen = [0] * num_slots, [0] * num_slots, [0] * num_slots
    for example, choice, hit in zip(examples, choices, is_hit, strict=True):
        slot = example.candidates.index(example.target)
        targets[slot] += 1
        slot_hits[slot] += hit
        if choice is not None:
            chosen[example.candidates.index(choice)] += 1
    return Slots(
        num_users=tuple(targets),
        hit_ratio=tuple(wilson(h, n) for h, n in zip(slot_hits, targets, strict=True)),
        num_chosen=tuple(chosen),
        uniform_p_value=uniform_p_value(chosen),
        hit_p_value=independence_p_value(slot_hits, targets),
    )


def _groups(
    examples: Sequence[Example],
    is_hit: Sequence[bool],
    measure: Callable[[Example], int],
    bounds: Sequence[tuple[int, int | None]],
) -> Groups:
    """HitRatio@1 by ranges of a count, both ends included, and a test of equality."""
    values = [measure(example) for example in examples]
    users, num_hits = [], []
    for low, high in bounds:
        inside = [low <= value and (high is None or value <= high) for value in values]
        users.append(sum(inside))
        num_hits.append(sum(a and b for a, b in zip(inside, is_hit, strict=True)))
    rows = tuple(
        Group(low, high, n, wilson(h, n))
        for (low, high), n, h in zip(bounds, users, num_hits, strict=True)
    )
    return Groups(rows, independence_p_value(num_hits, users))


def target_rank(example: Example, scores: Sequence[float]) -> int:
    """The worst of ``target_ranks``, used to choose settings on validation."""
    return target_ranks(example, scores)[-1]


def target_ranks(example: Example, scores: Sequence[float]) -> range:
    """The possible 1-based ranks of the target over all orders of ties.

    A score that is NaN ranks before the target.

    Raises:
        ValueError: If there is not one score a candidate, or the target's is not a number.
    """
    if len(scores) != len(example.candidates):
        raise ValueError(
            f"{example.example_id}: {len(scores)} scores for {len(example.candidates)} candidates"
        )
    own = scores[example.candidates.index(example.target)]
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
    """1 / rank of each; their mean is the MRR."""
    return [1 / rank for rank in ranks]


def _full_ranking(examples: Sequence[Example], scores: Sequence[Scores]) -> FullRanking | None:
    """HR@k, NDCG@k and MRR over all users; a user without scores has the last rank.

    None if no user has scores. Cutoffs that include whole candidate lists are left out.
    """
    if not any(scores):
        return None
    ranks: list[Sequence[int]] = [
        target_ranks(example, found) if found else (len(example.candidates),)
        for example, found in zip(examples, scores, strict=True)
    ]
    longest = max(len(example.candidates) for example in examples)
    cutoffs = [k for k in CUTOFFS if k < longest]
    return FullRanking(
        num_scored=sum(bool(found) for found in scores),
        hr={k: _expected(ranks, partial(hr_at_k, k=k)) for k in cutoffs},
        ndcg={k: _expected(ranks, partial(ndcg_at_k, k=k)) for k in cutoffs},
        mrr=_expected(ranks, reciprocal_ranks),
    )


def _expected(
    ranks: Sequence[Sequence[int]], metric: Callable[[Sequence[int]], list[float]]
) -> Share:
    """Mean over users of a metric's expected value over the target's possible ranks."""
    return _mean([math.fsum(metric(possible)) / len(possible) for possible in ranks])


def _mean(values: Sequence[float]) -> Share:
    share = mean_interval(values)
    assert share is not None  # there is at least one user
    return share


def _known_share(count: int, total: int) -> Share:
    share = wilson(count, total)
    assert share is not None  # there is at least one user
    return share
