"""The k-core: the largest subset of events in which every user and every item has at least k."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer]


def k_core(users: IntArray, items: IntArray, k: int) -> NDArray[np.int64]:
    """Row numbers of the k-core, ascending.

    Args:
        users: Shape (E,). Code of each event's user, from 0.
        items: Shape (E,). Code of each event's item, from 0.
        k: Minimum number of events per user and item. A repeated purchase counts again.
    """
    rows = np.arange(len(users))
    users, items = users.astype(np.intp), items.astype(np.intp)  # the type that bincount casts to
    while True:
        is_core_user, is_core_item = np.bincount(users) >= k, np.bincount(items) >= k
        stays = is_core_user[users] & is_core_item[items]
        if stays.all():
            return rows
        rows, users, items = rows[stays], users[stays], items[stays]


def distinct_rows(users: IntArray, items: IntArray, timestamps: IntArray) -> NDArray[np.int64]:
    """Row numbers, ascending, without rows that repeat an earlier user, item and time.

    The same item bought again at another time is another event and stays.
    """
    mixed = _mix(users, items, timestamps)
    ordered = np.sort(mixed)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    stays = np.ones(len(users), dtype=bool)
    if len(repeated):
        suspects = np.flatnonzero(np.isin(mixed, repeated))
        keys = np.stack([users[suspects], items[suspects], timestamps[suspects]])
        order = np.lexsort(keys)  # stable, so of equal events the first row leads
        same = (np.diff(keys[:, order]) == 0).all(axis=0)
        stays[suspects[order[1:][same]]] = False
    return np.flatnonzero(stays)


def _mix(*columns: IntArray) -> NDArray[np.uint64]:
    """A hash of each row: equal for equal rows, and almost surely different otherwise."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed
