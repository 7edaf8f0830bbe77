"""Load on a service, and what its clients saw: arrivals, loops of requests, quantiles, goodput.

An open loop asks at its times whether or not earlier answers have come, as the public does, so a
slow service gets a line. A closed loop asks again after each answer, which finds what a service can
do at most.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """What a client saw of one request.

    Attributes:
        due: When it should have been sent, in seconds since the loop began.
        done: When its answer was whole, likewise.
        status: The HTTP status; 0 if the connection broke.
        first: When the first word of a stream had come, likewise; None without a stream.
        is_wrong: Whether the answer is none to this request.
        item: What was recommended.
    """

    due: float
    done: float
    status: int
    first: float | None = None
    is_wrong: bool = False
    item: str | None = None

    @property
    def seconds(self) -> float:
        """How long the client waited, its own delay in sending included."""
        return self.done - self.due


def poisson_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds at which requests of independent clients come, ``rate`` a second on average."""
    rng, times = random.Random(seed), []
    now = rng.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate)
    return times


async def open_loop(times: Sequence[float], act: Callable[[int, float], Awaitable[T]]) -> list[T]:
    """Results of ``act(number, begin)``, started at each time and all waited for.

    ``begin`` is the start of the loop by ``time.perf_counter``.
    """
    begin, tasks = time.perf_counter(), []
    for number, due in enumerate(times):
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(act(number, begin)))
    return list(await asyncio.gather(*tasks))


async def closed_loop(
    num_clients: int, seconds: float, act: Callable[[int, float], Awaitable[T]]
) -> list[T]:
    """Results of clients of which each acts again as soon as it has a result, until a time."""
    begin, numbers, found = time.perf_counter(), iter(range(10**9)), []

    async def client() -> None:
        while time.perf_counter() - begin < seconds:
            found.append(await act(next(numbers), begin))

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return found


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed; NaN without any."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def goodput(seen: Iterable[Seen], begin: float, end: float, deadline_s: float = math.inf) -> float:
    """Right answers a second that came in time, of those that were whole between two times."""
    good = sum(
        one.status == 200
        and not one.is_wrong
        and begin <= one.done < end
        and one.seconds <= deadline_s
        for one in seen
    )
    return good / (end - begin)
