"""Work that goes on at once, and ends together."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results in order; if one fails or this call is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await end(tasks)


async def end(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel running tasks, and wait for them to stop."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
