"""Users whose recommendations are to be made anew, a few at once, beside the requests."""

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

logger = logging.getLogger(f"msrrec.{__name__}")

_AT_ONCE = 2
MAX_WAITING = 10_000
"""Users who wait, at most. More may buy something in a while than engines have time for: who has
waited longest then keeps the offers that are left."""


class Renewals:
    """A line of users, each of whom is in it once."""

    def __init__(self, renew: Callable[[str], Awaitable[None]]) -> None:
        """Begin empty.

        Args:
            renew: Makes the recommendations of a user anew; what it raises is logged.
        """
        self._renew = renew
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits, or is at work."""
        return any(not worker.done() for worker in self._workers)

    def add(self, user_id: str) -> None:
        """Renew a user's recommendations soon; who waits already keeps the place."""
        self._waiting[user_id] = None
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        self._workers = {worker for worker in self._workers if not worker.done()}
        if len(self._workers) < _AT_ONCE:
            # It outlives the request that begins it, and Ray would cancel its calls with that.
            context = contextvars.Context()
            loop = asyncio.get_running_loop()
            self._workers.add(loop.create_task(self._work(), context=context))

    async def _work(self) -> None:
        while self._waiting:
            user_id, _ = self._waiting.popitem(last=False)
            try:
                await self._renew(user_id)
            except Exception:  # the next user is not to suffer for it
                logger.exception("a user's recommendations could not be made anew")
