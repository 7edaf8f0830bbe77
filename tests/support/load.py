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
