"""Work that goes on at once, and ends together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results in order; if one fails or this call is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await end(tasks)


async def merge(
    iterators: Iterable[AsyncIterable[T]],
) -> AsyncGenerator[list[tuple[int, T]], None]:
    """What all iterators yield, as it comes, each with the number of its iterator.

    What comes at the same moment is one list. If an iterator fails its exception is raised, and the
    others are cancelled.
    """
    queue: asyncio.Queue[tuple[int, T] | asyncio.Future[None]] = asyncio.Queue()

    async def follow(number: int, iterator: AsyncIterable[T]) -> None:
        async for one in iterator:
            queue.put_nowait((number, one))

    tasks = [asyncio.ensure_future(follow(*one)) for one in enumerate(iterators)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    try:
        running = len(tasks)
        while running:
            found = [await queue.get()]
            while not queue.empty():
                found.append(queue.get_nowait())
            if pieces := [one for one in found if isinstance(one, tuple)]:
                yield pieces
            for one in found:
                if not isinstance(one, tuple):
                    one.result()  # raises the exception that ended it
                    running -= 1
    finally:
        await end(tasks)


async def end(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel those that run, and wait for all to stop; their exceptions are dropped."""
    all_tasks = list(tasks)
    for task in all_tasks:
        task.cancel()
    await asyncio.gather(*all_tasks, return_exceptions=True)
