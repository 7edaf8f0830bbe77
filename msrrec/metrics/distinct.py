"""The number of different texts among many, in bounded memory."""

from collections.abc import Iterable
from hashlib import blake2b

MAX_KEPT = 1 << 20


class DistinctCount:
    """Counts different texts: exactly up to a million of them, beyond that by a sample.

    Texts are known by hashes of 64 bits. When more differ, only hashes whose last
    bits are zero are kept, one bit more each time, and the count is scaled: adaptive sampling
    (Flajolet 1990), whose standard error is 1.2 / sqrt(kept), about 0.2%.

    Args:
        max_kept: Texts up to which the count is exact.
    """

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._kept, self._max_kept = set[int](), max_kept
        self._mask = 0

    def add(self, texts: Iterable[str]) -> None:
        """Count texts."""
        for text in texts:
            digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
            key = int.from_bytes(digest, "big")
            if not key & self._mask:
                self._kept.add(key)
        while len(self._kept) > self._max_kept:
            self._mask = self._mask << 1 | 1
            self._kept = {key for key in self._kept if not key & self._mask}

    @property
    def count(self) -> int:
        """The number of different texts."""
        return len(self._kept) * (self._mask + 1)
