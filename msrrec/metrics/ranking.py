"""HitRatio@1 and ValidRatio, whole and by group of users; HR@k, NDCG@k and MRR of full rankings.

HitRatio@1 counts invalid outputs as misses (hits over all users), as the paper does. One target per
user, so HR@k is Recall@k, and the ideal DCG is 1.

Candidates with equal scores have no order. HR@k, NDCG@k and MRR are what a random order of them is
expected to give, so scores that are all alike are worth as much as a random ranking. HitRatio@1 is
of the one candidate that was chosen, whatever it ties with.
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
"""The k of HR@k and NDCG@k."""

Scores = Sequence[float] | None
"""One number a candidate, in the frozen order, higher is better; None where there are none."""


@dataclass(frozen=True)
class Slots:
    """What positions in the candidate list have to do with choices and hits; one entry a position.

    Attributes:
        num_users: Users whose target stands there.
        hit_ratio: HitRatio@1 of those users; None without any.
        num_chosen: Choices that fall there, right or wrong.
        uniform_p_value: That all positions are chosen alike; None without a valid choice.
        hit_p_value: That HitRatio@1 is the same at all positions; None where that can't be tested.
    """

    num_users: tuple[int, ...]
    hit_ratio: tuple[Share | None, ...]
    num_chosen: tuple[int, ...]
    uniform_p_value: float | None
    hit_p_value: float | None


@dataclass(frozen=True)
class Group:
    """HitRatio@1 of the users whose count lies between ``low`` and ``high``, both ends in.

    ``high`` is None where the group has no upper end.
    """

    low: int
    high: int | None
    num_users: int
    hit_ratio: Share | None


@dataclass(frozen=True)
class Groups:
    """Users grouped by a count, and the p-value that HitRatio@1 is the same in all groups."""

    rows: tuple[Group, ...]
    p_value: float | None


@dataclass(frozen=True)
class FullRanking:
    """Metrics of whole rankings over all users.

    Attributes:
        num_scored: Users with scores; the others have the last rank.
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
    """What the choices of one system are worth.

    Attributes:
        num_users: All users, invalid outputs included.
        num_hits: Users whose target was chosen.
        num_valid: Users for whom a candidate was chosen at all.
        hit_ratio: Hits over all users.
        valid_ratio: Valid choices over all users.
        hit_ratio_valid: Hits over users with a valid choice; None without any.
        hit_ratio_fallback: What HitRatio@1 is expected to be where a random candidate takes the
            place of an invalid choice.
        slots: By position in the candidate list.
        history_length: By the number of purchases before.
        popularity: By the number of training users of the target; None where it was not asked for.
        ranking: Of the whole ranking; None where nothing was scored.
        hit_bits: One bit a user, see ``pack_bits``.
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
        examples: One a user, at least one.
        choices: The chosen item id of each, None where the output is invalid.
        buyers: Training users of every item, for the groups by popularity; None leaves them out.
        scores: Of the candidates of each example, for the whole ranking; None leaves it out.
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
    """One bit a user as hexadecimal digits, so that metrics.json can be paired with another's."""
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
    """HitRatio@1 by ranges of a count, both ends in, and a test that it is the same in all."""
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
    """The worst of ``target_ranks``, by which settings are chosen on validation."""
    return target_ranks(example, scores)[-1]


def target_ranks(example: Example, scores: Sequence[float]) -> range:
    """The 1-based ranks that the target has in the orders of the candidates that tie with it.

    A score that is not a number stands before the target.

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

    None where no user has any. Cutoffs that take in whole candidate lists say nothing and are left
    out.
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
    """The mean over users of a metric's mean over the ranks that a user's target may have."""
    return _mean([math.fsum(metric(possible)) / len(possible) for possible in ranks])


def _mean(values: Sequence[float]) -> Share:
    share = mean_interval(values)
    assert share is not None  # there is at least one user
    return share


def _known_share(count: int, total: int) -> Share:
    share = wilson(count, total)
    assert share is not None  # there is at least one user
    return share
