"""The best items by scores, and the union of several rankings by reciprocal rank fusion.

Rankings hold item codes, the best first. Ties are broken by ``order``: what more users bought comes
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def take_best(codes: IntArray, scores: FloatArray, order: IntArray, n: int) -> IntArray:
    """The codes of the ``n`` highest scores, the best first.

    Args:
        codes: Shape (K,). Distinct item codes.
        scores: Shape (K,).
        order: Shape (I,). Place of each item among equal scores; lower comes first.
        n: How many are wanted.
    """
    if len(codes) > n:
        least = np.partition(scores, len(scores) - n)[len(scores) - n]
        kept = scores >= least
        codes, scores = codes[kept], scores[kept]
    best: IntArray = codes[np.lexsort((order[codes], -scores))[:n]]
    return best


@dataclass(frozen=True)
class Ranking:
    """The union of several rankings.

    Attributes:
        codes: Item codes, the best first.
        scores: The score of each; 0 for those that only fill the list up.
    """

    codes: IntArray
    scores: NDArray[np.float64]


def fuse_ranks(
    rankings: Sequence[IntArray], weights: Sequence[float], constant: int, order: IntArray
) -> Ranking:
    """Reciprocal rank fusion (Cormack et al. 2009) with a weight for each ranking.

    An item's score is the sum of weight / (constant + rank) over the rankings that have it; ranks
    count from 1.
    """
    parts = [
        weight / (constant + np.arange(1.0, len(codes) + 1))
        for codes, weight in zip(rankings, weights, strict=True)
    ]
    codes, places = np.unique(
        np.concatenate([*rankings, np.empty(0, np.int64)]), return_inverse=True
    )
    scores = np.bincount(places, np.concatenate([*parts, np.empty(0)]), minlength=len(codes))
    best = np.lexsort((order[codes], -scores))
    return Ranking(codes[best], scores[best])


def keep_first(ranking: Ranking, groups: IntArray) -> Ranking:
    """The ranking with the first item of each group alone.

    Args:
        ranking: Item codes.
        groups: Shape (I,). The group of each item, such as those with equal titles.
    """
    _, first = np.unique(groups[ranking.codes], return_index=True)
    first.sort()
    return Ranking(ranking.codes[first], ranking.scores[first])
