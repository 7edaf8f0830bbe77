"""Looking again and again at what other processes may have changed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msrrec.errors import MsrRecError

logger = logging.getLogger(f"msrrec.{__name__}")


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

    async def follow(self) -> None:
        """Look from now on; the first call waits for what was changed until now."""
        if self._is_idle():
            await self._try()
        if self._is_idle():  # another call may have begun it meanwhile
            self._task = asyncio.ensure_future(self._go_on())

    def _is_idle(self) -> bool:
        return self._task is None or self._task.done()

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._try()

    async def _try(self) -> None:
        try:
            await self._look()
        except (MsrRecError, OSError) as error:
            logger.warning("%s: changes can't be read (%s)", self._what, error)
