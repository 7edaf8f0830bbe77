"""The number of different texts among many, in bounded memory."""

from array import array
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

MAX_KEPT = 1 << 20
_MERGED = 1 << 16
"""Hashes that wait until it is seen which of them are new."""


class DistinctCount:
    """Counts different texts: exactly up to a million of them, beyond that by a sample.

    Texts are known by hashes of 64 bits. When more differ, only hashes whose last
    bits are zero are kept, one bit more each time, and the count is scaled: adaptive sampling
    (Flajolet 1990), whose standard error is 1.2 / sqrt(kept), about 0.2%.

    Args:
        max_kept: Texts up to which the count is exact.
    """

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._kept, self._max_kept = np.array([], np.uint64), max_kept
        self._new, self._mask = array("Q"), 0

    def add(self, texts: Iterable[str]) -> None:
        """Count texts."""
        for text in texts:
            digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
            key = int.from_bytes(digest, "big")
            if not key & self._mask:
                self._new.append(key)
        if len(self._new) > _MERGED:
            self._merge()

    def _merge(self) -> None:
        """Keep each new hash once, eight bytes each, and sample if there are too many."""
        self._kept = np.union1d(self._kept, np.frombuffer(self._new, np.uint64))
        self._new = array("Q")
        while len(self._kept) > self._max_kept:
            self._mask = self._mask << 1 | 1
            self._kept = self._kept[self._kept & np.uint64(self._mask) == 0]

    @property
    def count(self) -> int:
        """The number of different texts."""
        if self._new:
            self._merge()
        return len(self._kept) * (self._mask + 1)
