"""What users bought since their recommendations were made, kept where every replica reads it.

Each writer appends lines to files of its own, in a folder beside the recommendations; on an object
store each line is an object. The latest ones are kept. A rollout's next version reads the folder of
the live one, also if its recommendations are others.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from msrrec import storage
from msrrec.journal import Journal
from serve.polling import Poll
from serve.stored import StoredOffers
from serve.storing import finish

logger = logging.getLogger(f"msrrec.{__name__}")

_SUFFIX = ".jsonl"
_POLL_S = 10.0
"""Seconds between looks for what no other replica told."""
_MAX_BYTES, _MAX_FILES = 8 << 20, 5_000
"""About 80,000 purchases, or 5,000 on an object store."""
_PER_FILE = 1_000
_READERS = 16


@dataclass(frozen=True)
class Purchase:
    """What one request told.

    Attributes:
        time_ns: When, in nanoseconds since 1970.
        items: Ids of the catalogue, or titles; oldest first.
        told_of: Identity of the recommendations that the service held.
    """

    time_ns: int
    user_id: str
    items: tuple[str, ...]
    told_of: str


class PurchaseLog:
    """The purchases in a folder, in the order of their times."""

    def __init__(
        self,
        folder: str,
        *,
        max_bytes: int = _MAX_BYTES,
        max_files: int = _MAX_FILES,
        per_file: int = _PER_FILE,
    ) -> None:
        """Begin at the oldest that is kept.

        Args:
            folder: Where the files are; made when it is needed.
            max_bytes: Of all files. Beyond it the oldest are deleted.
            max_files: Likewise.
            per_file: Purchases in one file; so often it is looked whether there are too many.
        """
        self.folder = folder
        self._max_bytes, self._max_files, self._per_file = max_bytes, max_files, per_file
        self._read: dict[str, int] = {}
        self._num_added = 0

    def add(self, purchase: Purchase) -> None:
        """Keep a purchase.

        Raises:
            DataError, OSError: If the storage refuses.
        """
        if self._num_added % self._per_file == 0:
            storage.make_folder(self.folder)
            self._prune()
            self._journal = Journal(self.folder, _SUFFIX)
        self._num_added += 1
        self._journal.append(json.dumps(asdict(purchase)).encode() + b"\n")

    def read_new(self) -> list[Purchase]:
        """The purchases that were not read before, oldest first.

        Raises:
            DataError, OSError: If the storage refuses.
        """
        entries = self._entries()
        changed = [one.name for one in entries if one.size != self._read.get(one.name, 0)]
        with ThreadPoolExecutor(_READERS) as readers:
            lines = [line for of_one in readers.map(self._read_file, changed) for line in of_one]
        present = {one.name for one in entries}
        self._read = {name: n for name, n in self._read.items() if name in present}
        return sorted(map(_parse, lines), key=lambda one: one.time_ns)

    def _read_file(self, name: str) -> list[bytes]:
        """The whole lines of a file that were not read before."""
        content = storage.read_bytes(storage.join(self.folder, name))
        begin = self._read.get(name, 0)
        if begin > len(content):  # it was deleted, and its writer went on
            begin = 0
        content = content[begin : content.rfind(b"\n") + 1]
        self._read[name] = begin + len(content)
        return content.splitlines()

    def _entries(self) -> list[storage.Entry]:
        return [one for one in storage.walk(self.folder) if one.name.endswith(_SUFFIX)]

    def _prune(self) -> None:
        """Delete the oldest files beyond the limits."""
        size = 0
        for n, one in enumerate(reversed(self._entries())):  # names begin with times
            size += one.size
            if size > self._max_bytes or n >= self._max_files:
                storage.delete_file(storage.join(self.folder, one.name))


def _parse(line: bytes) -> Purchase:
    fields = json.loads(line)
    return Purchase(**{**fields, "items": tuple(fields["items"])})


class ToldPurchases:
    """Recommendations made ahead of time, after all purchases that any replica was told of."""

    def __init__(self, stored: StoredOffers, folder: str) -> None:
        """Read what is kept in a folder.

        Raises:
            DataError: If the storage refuses.
        """
        self._stored, self._log = stored, PurchaseLog(folder)
        self._lock = asyncio.Lock()
        self._poll = Poll(self.catch_up, _POLL_S, "purchases")
        self._apply(self._log.read_new())

    async def add(self, user_id: str, items: Sequence[str]) -> None:
        """Keep what a user bought; it counts once this returns.

        Raises:
            DataError, OSError: If the storage refuses.
        """
        purchase = Purchase(time.time_ns(), user_id, tuple(items), self._stored.identity)
        await finish(self._add(purchase))

    async def _add(self, purchase: Purchase) -> None:
        async with self._lock:
            await asyncio.to_thread(self._log.add, purchase)
        await self._catch_up()

    async def catch_up(self) -> None:
        """Know of all purchases until now."""
        await finish(self._catch_up())

    async def _catch_up(self) -> None:
        async with self._lock:
            self._apply(await asyncio.to_thread(self._log.read_new))

    async def follow(self) -> None:
        """Know of other replicas' purchases from now on, at the latest some seconds later."""
        await self._poll.follow()

    def _apply(self, purchases: Sequence[Purchase]) -> None:
        for one in purchases:
            items = one.items
            if one.told_of != self._stored.identity:  # they may be in the newer history already
                known = self._stored.made_for(one.user_id)
                items = tuple(item for item in items if item not in known)
            if items:
                self._stored.add_purchases(one.user_id, items)
