"""The k-core: the largest part of the events where every user and every item has at least k."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer]


def k_core(users: IntArray, items: IntArray, k: int) -> NDArray[np.int64]:
    """Rows of the k-core, ascending, at its fixed point.

    Args:
        users: Shape (E,). Code of each event's user, from 0.
        items: Shape (E,). Code of each event's item, from 0.
        k: Least events of each user and item. A repeated purchase counts as one more event.
    """
    rows = np.arange(len(users))
    while True:
        user, item = users[rows], items[rows]
        stays = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k)
        if stays.all():
            return rows
        rows = rows[stays]


def distinct_rows(users: IntArray, items: IntArray, timestamps: IntArray) -> NDArray[np.int64]:
    """Rows ascending, without those that repeat an earlier row's user, item and time.

    The same item bought again at another time is another event and stays.
    """
    pairs = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
    ordered = np.sort(pairs)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    suspects = np.flatnonzero(np.isin(pairs, repeated))
    order = suspects[np.lexsort((timestamps[suspects], pairs[suspects]))]
    same = (np.diff(pairs[order]) == 0) & (np.diff(timestamps[order]) == 0)
    stays = np.ones(len(users), dtype=bool)
    stays[order[1:][same]] = False
    return np.flatnonzero(stays)
