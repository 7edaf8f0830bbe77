"""What users bought since their recommendations were made, kept where every replica reads it.

Each writer appends lines to files of its own, in a folder beside the recommendations; on an object
store each line is an object. The latest ones are kept. A rollout's next version goes on with the
folder of the live one, also if its recommendations are others, and copies it beside these, where a
service that is started with them looks.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from msrrec import storage
from msrrec.errors import DataError
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
_AT_ONCE = 16


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
        copies: str | None = None,
        *,
        max_bytes: int = _MAX_BYTES,
        max_files: int = _MAX_FILES,
        per_file: int = _PER_FILE,
    ) -> None:
        """Begin at the oldest that is kept.

        Args:
            folder: Where the files are; made when it is needed.
            copies: A folder that gets a copy of all files; None for none.
            max_bytes: Of all files. Beyond it the oldest are deleted.
            max_files: Likewise.
            per_file: Purchases in one file; so often it is looked whether there are too many.
        """
        self.folder, self._copies = folder, copies
        self._max_bytes, self._max_files, self._per_file = max_bytes, max_files, per_file
        self._read: dict[str, int] = {}
        self._num_added = 0

    def add(self, purchase: Purchase) -> None:
        """Keep a purchase.

        Raises:
            DataError, OSError: If the storage refuses.
        """
        line = json.dumps(asdict(purchase)).encode() + b"\n"
        if self._num_added % self._per_file == 0:
            self._begin_file()
        try:
            self._journal.append(line)
        except FileNotFoundError:  # somebody deleted the folder, as of an old version
            self._begin_file()
            self._journal.append(line)
        self._num_added += 1

    def _begin_file(self) -> None:
        storage.make_folder(self.folder)
        self._prune(self.folder)
        if self._copies is not None:
            with _copying(self._copies):
                self._prune(self._copies)
        self._journal = Journal(self.folder, _SUFFIX)

    def read_new(self) -> list[Purchase]:
        """The purchases that were not read before, oldest first.

        Raises:
            DataError, OSError: If the storage refuses.
        """
        entries = _list_files(self.folder)
        changed = [one.name for one in entries if one.size != self._read.get(one.name, 0)]
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            found = list(readers.map(self._read_file, changed))
        if self._copies is not None:
            self._copy(entries, self._copies)
        present = {one.name for one in entries}
        self._read = {name: n for name, n in self._read.items() if name in present}
        self._read.update((name, end) for name, end, _ in found)
        purchases = (_parse(line) for _, _, lines in found for line in lines)
        return sorted(purchases, key=lambda one: one.time_ns)

    def _read_file(self, name: str) -> tuple[str, int, list[bytes]]:
        """Name and end of the whole lines of a file, and those that were not read before."""
        path, begin = storage.join(self.folder, name), self._read.get(name, 0)
        try:
            content = storage.read_bytes(path)
        except DataError:
            if storage.exists(path):
                raise
            return name, begin, []  # deleted for its age since it was listed
        if begin > len(content):  # it was deleted, and its writer went on
            begin = 0
        end = content.rfind(b"\n") + 1
        return name, max(begin, end), content[begin:end].splitlines()

    def _copy(self, entries: Sequence[storage.Entry], target: str) -> None:
        """Give another folder what it lacks."""

        def copy(name: str) -> None:
            content = storage.read_bytes(storage.join(self.folder, name))
            storage.write_bytes(storage.join(target, name), content)

        with _copying(target), ThreadPoolExecutor(_AT_ONCE) as writers:
            there = {one.name: one.size for one in _list_files(target)}
            lacking = [one.name for one in entries if one.size != there.get(one.name)]
            list(writers.map(copy, lacking))

    def _prune(self, folder: str) -> None:
        """Delete the oldest files beyond the limits."""
        size = 0
        for n, one in enumerate(reversed(_list_files(folder))):  # names begin with times
            size += one.size
            if size > self._max_bytes or n >= self._max_files:
                storage.delete_file(storage.join(folder, one.name))


@contextlib.contextmanager
def _copying(target: str) -> Iterator[None]:
    """Go on where the folder of copies refuses, as the one that is copied has all."""
    try:
        yield
    except (DataError, OSError) as error:
        logger.warning("%s: purchases can't be copied there (%s)", storage.shown(target), error)


def _list_files(folder: str) -> list[storage.Entry]:
    return [one for one in storage.walk(folder) if one.name.endswith(_SUFFIX)]


def _parse(line: bytes) -> Purchase:
    fields = json.loads(line)
    return Purchase(**{**fields, "items": tuple(fields["items"])})


class ToldPurchases:
    """Recommendations made ahead of time, after all purchases that any replica was told of."""

    def __init__(self, stored: StoredOffers, folder: str, copies: str | None = None) -> None:
        """Read what is kept in a folder.

        Args:
            stored: The recommendations.
            folder: Where purchases are kept.
            copies: A folder that gets a copy of them; None for none.

        Raises:
            DataError: If the storage refuses.
        """
        self._stored, self._log = stored, PurchaseLog(folder, copies)
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
