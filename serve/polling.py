"""Looking again and again at what other processes may have changed."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable

from msrrec.errors import MsrRecError

logger = logging.getLogger(f"msrrec.{__name__}")

FIRST_LOOK_S = 5.0
"""Seconds that requests wait at most for the first look; then they go on with what is known."""


class Poll:
    """Looks at intervals, from the first time that somebody wants to know."""

    def __init__(self, look: Callable[[], Awaitable[None]], every_s: float, what: str) -> None:
        """Do nothing yet.

        Args:
            look: Called at intervals; storage that fails is logged, and looked at again.
            every_s: Seconds between two looks.
            what: Is looked at, for the log.
        """
        self._look, self._every_s, self._what = look, every_s, what
        self._task: asyncio.Task[None] | None = None
        self._looked: asyncio.Event

    async def follow(self) -> None:
        """Look from now on; return once the first look is done, or takes too long."""
        if self._task is None or self._task.done():
            self._looked = asyncio.Event()
            loop = asyncio.get_running_loop()
            # Neither cancelled nor logged with the request that begins it.
            work, context = self._go_on(self._looked), contextvars.Context()
            self._task = loop.create_task(work, context=context)
            loop.call_later(FIRST_LOOK_S, self._wait_no_more, self._looked)
        await self._looked.wait()

    def _wait_no_more(self, looked: asyncio.Event) -> None:
        if not looked.is_set():
            logger.warning("%s: storage does not answer; what it holds comes late", self._what)
            looked.set()

    async def _go_on(self, looked: asyncio.Event) -> None:
        try:
            while True:
                await self._try()
                looked.set()
                await asyncio.sleep(self._every_s)
        finally:
            looked.set()  # whoever waits goes on with what is known

    async def _try(self) -> None:
        try:
            await self._look()
        except (MsrRecError, OSError) as error:
            logger.warning("%s: changes can't be read (%s)", self._what, error)
