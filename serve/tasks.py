"""Work that goes on at once, and ends together."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable, Sequence
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
    """What all iterators yield, each with the number of its iterator; see ``drain``."""
    queue: asyncio.Queue[tuple[int, T]] = asyncio.Queue()

    async def follow(number: int, iterator: AsyncIterable[T]) -> None:
        async for one in iterator:
            queue.put_nowait((number, one))

    tasks = [asyncio.ensure_future(follow(*one)) for one in enumerate(iterators)]
    async with contextlib.aclosing(drain(queue, tasks)) as drained:
        async for found in drained:
            yield found


async def drain(
    queue: "asyncio.Queue[T]", tasks: Sequence["asyncio.Future[Any]"]
) -> AsyncGenerator[list[T], None]:
    """What tasks put into a queue, until all have ended; what comes at one moment is one list.

    If a task fails its exception is raised, and the others are cancelled.
    """
    events: asyncio.Queue[Any] = queue
    for task in tasks:
        task.add_done_callback(events.put_nowait)
    running = len(tasks)
    try:
        while running:
            found = [await events.get()]
            while not events.empty():
                found.append(events.get_nowait())
            ended = [one for one in found if isinstance(one, asyncio.Future)]
            if len(found) > len(ended):
                yield [one for one in found if not isinstance(one, asyncio.Future)]
            for task in ended:
                task.result()  # raises the exception that ended it
            running -= len(ended)
    finally:
        await end(tasks)


async def end(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel those that run, and wait for all to stop; their exceptions are dropped."""
    all_tasks = list(tasks)
    for task in all_tasks:
        task.cancel()
    await asyncio.gather(*all_tasks, return_exceptions=True)
