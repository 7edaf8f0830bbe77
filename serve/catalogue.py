"""The catalogue of a running service: an index that items are added to and removed from."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from msrrec.config import RecommendConfig
from msrrec.errors import DataError
from msrrec.fingerprint import hash_parts
from msrrec.recommendations.catalogue import propose
from msrrec.retrieval.folder import load_index
from msrrec.retrieval.histories import Purchase
from msrrec.retrieval.index import Index
from msrrec.schema import Item
from serve.changes import ChangeLog, apply
from serve.polling import Poll
from serve.storing import finish, keeping

_POLL_S = 0.5
"""Seconds between looks for changes that other replicas made."""


class LiveCatalogue:
    """An index, and the changes that were made to it while it was served.

    Attributes:
        index: The index as of now. Its version tells the latest change, so that replicas which know
            the same have the same one, however they came to know it.
        settings: Number of candidates.
    """

    def __init__(self, path: str, settings: RecommendConfig, live: str | None = None) -> None:
        """Load an index and apply the changes that were made to it before.

        Args:
            path: The folder of the index.
            settings: Number of candidates.
            live: The folder of the live version's changes, if this is a rollout's next version.

        Raises:
            DataError: If there is no index.
        """
        self.index: Index = load_index(path)
        self.settings = settings
        self._built = self.index.version
        self._log = ChangeLog(path, self._built, live)
        self._lock = asyncio.Lock()
        self._poll = Poll(self.catch_up, _POLL_S, "catalogue")
        self._read()

    @property
    def changes(self) -> str:
        """The folder of its changes."""
        return self._log.folder

    async def propose(self, purchases: Sequence[Purchase]) -> tuple[Item, ...]:
        """The candidates for a history, found in a thread.

        Raises:
            DataError: If there are fewer than two.
        """
        await self.follow()
        return await asyncio.to_thread(propose, self.index, purchases, self.settings.num_candidates)

    async def put(self, item: Item) -> None:
        """Offer an item, or give it another text; it can be recommended once this returns.

        Raises:
            DataError: If it has no id or no visible title.
            HttpError: 503 if the storage refuses.
        """
        await self._change(lambda index: index.add([item]), partial(self._log.put, item))

    async def delete(self, item_id: str) -> None:
        """Offer an item no more.

        Raises:
            DataError: If the catalogue does not offer it.
            HttpError: 503 if the storage refuses.
        """
        await self._change(
            lambda index: index.remove([item_id]), partial(self._log.delete, item_id)
        )

    async def _change(self, check: Callable[[Index], Index], keep: Callable[[], None]) -> None:
        """Keep a change, unless it is refused where all changes until now are known."""
        with keeping("change"):
            await self.catch_up()
        await asyncio.to_thread(check, self.index)
        with keeping("change"):
            await asyncio.to_thread(keep)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Know of all changes until now."""
        await finish(self._catch_up())

    async def _catch_up(self) -> None:
        async with self._lock:
            await asyncio.to_thread(self._read)

    def _read(self) -> None:
        if changes := self._log.read_new():
            version = hash_parts([self._built, self._log.latest])
            self.index = replace(apply(self.index, changes), version=version)

    async def follow(self) -> None:
        """Know of other replicas' changes from now on; the first call waits for those until now."""
        await self._poll.follow()

    def title(self, item_id: str) -> str:
        """The title of an item.

        Raises:
            DataError: If the catalogue does not know it.
        """
        code = self.index.catalogue.codes.get(item_id)
        if code is None:
            raise DataError(f"the catalogue has no item {item_id!r}")
        return self.index.catalogue.items[code].title
