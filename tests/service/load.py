"""Open-loop load: requests come at random times, whether or not answers do."""

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msrrec.embedded.world import make_catalogue
from tests.service.clients import Balancer, Expected, Seen

MODES = ("fused", "user", "fused", "direct", "item", "fast")
"""In the order in which requests ask for them."""
_CLOSED = 8
"""Requests at once of who asks a calm service."""


def make_bodies(number: int) -> list[dict[str, Any]]:
    """Different requests of several modes about the embedded world, half of them as streams."""
    titles = [item.title for item in make_catalogue(0)]
    bodies = []
    for n in range(number):
        shown = random.Random(n).sample(titles, 7)
        mode, streams = MODES[n % len(MODES)], n // len(MODES) % 2 == 0
        bodies.append(
            {
                "history": shown[:3],
                "candidates": shown[3:],
                "mode": mode,
                "seed": n,
                "stream": streams,
            }
        )
    return bodies


@dataclass
class Load:
    """Requests under way, and what came of those that ended.

    Attributes:
        per_second: How many come; may be changed at any time.
        seen: What clients saw, in the order of the ends.
    """

    balancer: Balancer
    expected: Expected
    bodies: Sequence[Mapping[str, Any]]
    per_second: float
    seen: list[Seen] = field(default_factory=list)
    _chance: random.Random = field(default_factory=lambda: random.Random(0))
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """Requests come within the block, and are answered until its end."""
        self.seen = []
        going = asyncio.create_task(self._go())
        try:
            yield
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            await self.settled()

    async def settled(self) -> None:
        """Return once all requests that have come so far were answered."""
        await asyncio.gather(*self._under_way)

    async def _go(self) -> None:
        number = 0
        while True:
            task = asyncio.create_task(self._ask(self.bodies[number % len(self.bodies)]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            number += 1
            await asyncio.sleep(self._chance.expovariate(self.per_second))

    async def _ask(self, body: Mapping[str, Any]) -> None:
        seen = await self.balancer.ask(body)
        self.expected.check(seen)
        self.seen.append(seen)

    async def learn(self) -> None:
        """Ask everything once of a calm service, a few at a time."""
        places = asyncio.Semaphore(_CLOSED)

        async def ask(body: Mapping[str, Any]) -> None:
            async with places:
                self.expected.learn(await self.balancer.ask(body))

        await asyncio.gather(*map(ask, self.bodies))


@dataclass(frozen=True)
class Tally:
    """The figures of a stretch of load.

    Attributes:
        sent: Requests.
        accepted: Those that were answered, with status 200 and a result.
        refused: Those that got 503 or 429 and were told when to come back.
        failed: Those that got neither: no answer, or another error.
        wrong: Answers that a calm service does not give.
        repeated: Streams with text twice, or two results.
        cut: Streams that ended without result and error; they failed too.
        asked_again: Requests that went to another proxy, as the first was lost.
        noticed_s: Seconds from the fault until the last client came that was refused, failed,
            had to ask again or waited over twice as long as the slowest before the fault.
        slowest_s: The longest wait for an answer.
        why: What was wrong, in the words of the first that it happened to.
    """

    sent: int
    accepted: int
    refused: int
    failed: int
    wrong: int
    repeated: int
    cut: int
    asked_again: int
    noticed_s: float
    slowest_s: float
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether nobody lost anything."""
        return self.sent > 0 and self.failed == self.wrong == self.repeated == self.cut == 0


@dataclass(frozen=True)
class Second:
    """One second of a row.

    Attributes:
        at_s: Its beginning, in seconds from the fault.
        came: Requests that came in it.
        lost: Those of them that failed, and the wrong and repeated ones.
        refused: Those of them that were refused.
        median_s: The median of the seconds until those of them that were answered were; or None.
        slowest_s: The longest of them, or None.
        engines: Engines that ran in it; None where nobody could say.
    """

    at_s: int
    came: int
    lost: int
    refused: int
    median_s: float | None
    slowest_s: float | None
    engines: int | None


def draw_up(seen: Sequence[Seen], engines: Mapping[int, int], fault: float) -> tuple[Second, ...]:
    """What was seen second by second; ``engines`` by second from the fault."""
    by_second: dict[int, list[Seen]] = {}
    for one in seen:
        by_second.setdefault(math.floor(one.came - fault), []).append(one)
    return tuple(
        _second(at, by_second.get(at, []), engines.get(at))
        for at in range(min(by_second, default=0), max(by_second, default=-1) + 1)
    )


def _second(at: int, came: Sequence[Seen], engines: int | None) -> Second:
    took = [one.seconds for one in came if one.kind == "answered"]
    lost = sum(one.kind == "failed" or one.is_wrong or one.is_repeated for one in came)
    refused = sum(one.kind == "refused" for one in came)
    median = statistics.median(took) if took else None
    return Second(at, len(came), lost, refused, median, max(took, default=None), engines)


def count(seen: Sequence[Seen], fault: float) -> Tally:
    """The figures, with a fault at a time of the steady clock."""
    answered = [one for one in seen if one.kind == "answered"]
    calm = [one.seconds for one in answered if one.came + one.seconds < fault]
    slow = 2 * max(calm, default=float("inf"))
    lost = [one for one in seen if one.kind == "failed" or one.is_wrong or one.is_repeated]
    noticed = [
        one.came + (one.seconds if one.kind == "failed" else 0) - fault
        for one in seen
        if one.kind != "answered" or one.tries > 1 or one.seconds > slow
    ]
    return Tally(
        sent=len(seen),
        accepted=len(answered),
        refused=sum(one.kind == "refused" for one in seen),
        failed=sum(one.kind == "failed" for one in seen),
        wrong=sum(one.is_wrong for one in seen),
        repeated=sum(one.is_repeated for one in seen),
        cut=sum(one.is_cut for one in seen),
        asked_again=sum(one.tries > 1 for one in seen),
        noticed_s=max([0.0, *noticed]),
        slowest_s=max((one.seconds for one in answered), default=0.0),
        why=lost[0].why if lost else "",
    )


def now() -> float:
    """The clock of all times here."""
    return time.monotonic()
