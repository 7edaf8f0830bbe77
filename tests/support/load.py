"""Open-loop load on the real application, on a clock that jumps; see ``tests.support.clock``."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from tests.support.clock import run_at_once
from tests.support.service import ASK, BODY, World


@dataclass(frozen=True)
class Answered:
    """What a client saw.

    Attributes:
        came: When it asked, in seconds of the loop's clock.
        seconds: How long it waited, likewise.
        real_seconds: The same on a real clock, the work for other clients included.
        status: The HTTP status.
        headers: The HTTP headers.
        text: The body.
    """

    came: float
    seconds: float
    real_seconds: float
    status: int
    headers: dict[str, str]
    text: str


class Line:
    """Work of a fixed length at a fixed number of places, in the order of arrival."""

    def __init__(self, places: int, seconds: float) -> None:
        self._places, self.seconds = asyncio.Semaphore(places), seconds

    async def __call__(self) -> None:
        async with self._places:
            await asyncio.sleep(self.seconds)


class Batch:
    """Work that is done in steps for all who are there, each slower the more there are.

    So does an engine that generates a token for every request in a step: a full batch does more in
    a second, and each of its requests takes longer.
    """

    fixed_s, each_s, steps = 0.0425, 0.0023, (12, 28)
    """Seconds of a step, and more for each who is there; least and most steps that one needs."""

    def __init__(self) -> None:
        self._left: dict[asyncio.Future[None], int] = {}
        self._chance = random.Random(1)
        self._running: asyncio.Task[None] | None = None

    @classmethod
    def peak(cls, places: int) -> float:
        """How many end in a second when all places are taken."""
        return places / (sum(cls.steps) / 2 * (cls.fixed_s + cls.each_s * places))

    async def __call__(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self._left[done] = self._chance.randint(*self.steps)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            await done
        finally:
            self._left.pop(done, None)

    async def _run(self) -> None:
        while self._left:
            await asyncio.sleep(self.fixed_s + self.each_s * len(self._left))
            for one in list(self._left):
                self._left[one] -= 1
                if self._left[one] <= 0 and not one.done():
                    one.set_result(None)
                    del self._left[one]
        self._running = None


async def ask(world: World, **changes: Any) -> Answered:
    """Ask once, over ASGI."""
    loop, sent = asyncio.get_running_loop(), []
    waiting = [{"type": "http.request", "body": json.dumps({**BODY, **changes}).encode()}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await loop.create_future()  # the client stays
        return waiting.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": ASK, "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    came, began = loop.time(), time.perf_counter()
    await world.app(scope, receive, send)
    headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    took = loop.time() - came, time.perf_counter() - began
    text = b"".join(message.get("body", b"") for message in sent).decode()
    return Answered(came, *took, sent[0]["status"], headers, text)


def load(
    world: World,
    work: Callable[[], Callable[[], Coroutine[Any, Any, None]]],
    *,
    per_second: float,
    seconds: float,
    **changes: Any,
) -> list[Answered]:
    """Ask at random times, whether or not answers come; ``work`` makes what an engine does."""

    async def go() -> list[Answered]:
        world.user.before, chance = work(), random.Random(0)
        loop, asked = asyncio.get_running_loop(), []
        while loop.time() < seconds:
            asked.append(asyncio.create_task(ask(world, mode="user", **changes)))
            await asyncio.sleep(chance.expovariate(per_second))
        return await asyncio.gather(*asked)

    return run_at_once(go())
