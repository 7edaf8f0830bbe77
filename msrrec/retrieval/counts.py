"""Item-item matrices counted from purchases: what the same users bought, and what follows what.

Shapes: I = items, U = users. A user's purchases are item codes from 0, oldest first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PurchaseCodes:
    """The purchases of all users in one array.

    Attributes:
        items: Item codes, user by user and oldest first.
        starts: Shape (U + 1,). Where each user's purchases begin, and the end.
        num_items: Number of items, I.
    """

    items: IntArray
    starts: IntArray
    num_items: int

    @classmethod
    def collect(cls, purchases: Iterable[Sequence[int]], num_items: int) -> "PurchaseCodes":
        """Read each user's item codes once, so that they may come from a file in parts."""
        parts = [np.asarray(codes, dtype=np.int64) for codes in purchases]
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate([*parts, np.empty(0, np.int64)]), starts, num_items)

    def cut(self, ends: IntArray) -> "PurchaseCodes":
        """Each user's purchases before some places.

        Args:
            ends: Shape (U,). Where in ``items`` each user's kept purchases end.
        """
        kept = np.arange(len(self.items)) < np.repeat(ends, np.diff(self.starts))
        starts = np.cumsum([0, *(ends - self.starts[:-1])], dtype=np.int64)
        return PurchaseCodes(self.items[kept], starts, self.num_items)

    @property
    def users(self) -> IntArray:
        """The user of each purchase, counted from 0."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def count_together(purchases: PurchaseCodes) -> csr_array:
    """Shape (I, I). Users who bought both items; the diagonal has each item's buyers.

    An item that a user bought several times counts once.
    """
    shape = (len(purchases.starts) - 1, purchases.num_items)
    ones = np.ones(len(purchases.items))
    bought = csr_array((ones, (purchases.users, purchases.items)), shape=shape)
    bought.sum_duplicates()
    bought.data[:] = 1.0
    return csr_array(bought.T @ bought)


def shrink_cosine(together: csr_array, shrinkage: float) -> csr_array:
    """The cosine of each pair of items (Sarwar et al. 2001), 0 on the diagonal.

    Args:
        together: Result of ``count_together``.
        shrinkage: Term added to the denominator, against pairs that few users bought.
    """
    buyers = np.sqrt(together.diagonal())
    pairs = together.tocoo()
    values = pairs.data / (buyers[pairs.row] * buyers[pairs.col] + shrinkage)
    values[pairs.row == pairs.col] = 0.0
    return csr_array((values, (pairs.row, pairs.col)), shape=together.shape)


def keep_neighbours(similarity: csr_array, count: int | None) -> csr_array:
    """The ``count`` highest values of each row, and 0 elsewhere; None keeps all."""
    if count is None:
        return similarity
    kept = similarity.copy()
    for begin, end in pairwise(kept.indptr):
        row = kept.data[begin:end]
        if len(row) > count:
            row[np.argsort(-row, kind="stable")[count:]] = 0.0
    kept.eliminate_zeros()
    return kept


def count_transitions(purchases: PurchaseCodes, window: int) -> csr_array:
    """Shape (I, I). How often a user bought the column's item after the row's item.

    The next purchase counts 1 and the nth one after it 1/n, up to ``window`` (sequential rules,
    Ludewig and Jannach 2018, with linear weights replaced by 1/n).
    """
    shape, users = (purchases.num_items, purchases.num_items), purchases.users
    found = csr_array(shape)
    for step in range(1, window + 1):
        same = users[:-step] == users[step:]
        before, after = purchases.items[:-step][same], purchases.items[step:][same]
        weights = np.full(len(before), 1.0 / step)
        found = found + csr_array(coo_array((weights, (before, after)), shape=shape))
    return csr_array(found)
