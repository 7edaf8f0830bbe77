"""Which items each user touched, in 8 bytes a pair, for datasets that do not fit into memory.

Pairs are known by hashes of 64 bits. Where a hash is found, the splits are read again for the user,
so the answer is exact although two pairs may share a hash.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.data.leave_one_out import HELD_OUT
from msrrec.data.partitions import PARTITION_SIZE
from msrrec.schema import SPLITS, Split

_COLUMNS = pa.schema(
    [schema.EXAMPLES.field(name) for name in (schema.USER_ID, "history", "target")]
)
_Keys = NDArray[np.uint64]


class TouchedItems:
    """The items of histories and targets of some splits, by user."""

    def __init__(self, dataset: Dataset, splits: Sequence[Split], keys: _Keys) -> None:
        self._dataset, self._splits, self._keys = dataset, splits, keys

    def find(self, users: Sequence[str], items: Sequence[Sequence[str]]) -> list[bool]:
        """Whether each user touched any of some items.

        Args:
            users: User ids.
            items: Item ids, a list for each user.
        """
        names = [user for user, some in zip(users, items, strict=True) for _ in some]
        pairs = pl.DataFrame(
            {"user": names, "item": [item for some in items for item in some]},
            schema={"user": pl.String, "item": pl.String},
        )
        suspects = pairs.filter(pl.Series(_is_in(self._keys, _hash(pairs["user"], pairs["item"]))))
        found = self._confirm(set(suspects.iter_rows()))
        return [
            any((user, item) in found for item in some)
            for user, some in zip(users, items, strict=True)
        ]

    def _confirm(self, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of some pairs that the splits really have."""
        users, found = sorted({user for user, _ in pairs}), set[tuple[str, str]]()
        for split in self._splits if pairs else ():
            for table in _read(self._dataset, split):
                rows = pl.DataFrame(table).filter(pl.col(schema.USER_ID).is_in(users))
                for user, history, target in rows.iter_rows():
                    found.update((user, item) for item in (*history, target))
        return found & pairs


def touched_items(dataset: Dataset) -> tuple[TouchedItems, TouchedItems]:
    """The items of every user in all splits, and those in the training examples."""
    trained = everything = _unite(map(_keys, _read(dataset, "train")))
    for split in HELD_OUT:  # one after another, as most pairs are in several splits
        everything = _unite([everything, _unite(map(_keys, _read(dataset, split)))])
    return TouchedItems(dataset, SPLITS, everything), TouchedItems(dataset, ("train",), trained)


def _read(dataset: Dataset, split: Split) -> Iterator[pa.Table]:
    path = storage.join(dataset.path, f"{split}.parquet")
    return storage.iter_tables(path, _COLUMNS, 10 * PARTITION_SIZE)


def _keys(table: pa.Table) -> _Keys:
    """The hashes of all pairs of user and touched item in rows of a split."""
    frame = pl.DataFrame(table)
    histories = frame.select(user=schema.USER_ID, item="history").explode("item")
    both = pl.concat([histories, frame.select(user=schema.USER_ID, item="target")])
    return np.unique(_hash(both["user"], both["item"]))


def _hash(users: pl.Series, items: pl.Series) -> _Keys:
    return np.asarray(users.hash(seed=1).to_numpy() ^ items.hash(seed=2).to_numpy())


def _is_in(keys: _Keys, wanted: _Keys) -> NDArray[np.bool_]:
    """Whether each wanted key is among some that are sorted."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=bool)
    places = np.searchsorted(keys, wanted)
    return np.asarray(keys[np.minimum(places, len(keys) - 1)] == wanted)


def _unite(parts: Iterable[_Keys]) -> _Keys:
    joined = np.concatenate([np.array([], dtype=np.uint64), *parts])
    joined.sort()
    is_new = np.ones(len(joined), dtype=bool)
    is_new[1:] = joined[1:] != joined[:-1]
    return np.asarray(joined[is_new])
