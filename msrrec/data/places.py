"""The places of ids in a list, in some tens of bytes an id and without a Python object for each."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray


class Places:
    """Finds where an id stands in a list of ids, of which equal ones count by the first.

    Ids are known by sorted hashes, and compared with the list where a hash is found.

    Attributes:
        ids: The list.
    """

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        hashes = _hash(pl.Series(ids, dtype=pl.String))
        self._order = np.argsort(hashes, kind="stable").astype(np.uint32)
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, wanted: str) -> int | None:
        """The 0-based place of an id; None if the list lacks it."""
        (place,) = self.find_each([wanted]).tolist()
        return None if place < 0 else place

    def find_each(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """The 0-based place of each id; -1 for those that the list lacks."""
        hashes = _hash(pl.Series(wanted, dtype=pl.String))
        firsts = np.searchsorted(self._hashes, hashes)
        lasts = np.searchsorted(self._hashes, hashes, "right")
        found = np.full(len(wanted), -1, dtype=np.int64)
        for n, (name, first, last) in enumerate(zip(wanted, firsts, lasts, strict=True)):
            places = (int(place) for place in self._order[first:last])
            found[n] = next((p for p in places if self.ids[p].as_py() == name), -1)
        return found


def _hash(ids: pl.Series) -> NDArray[np.uint64]:
    return np.asarray(ids.hash(seed=1).to_numpy())
