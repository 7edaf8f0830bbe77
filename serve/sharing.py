"""Equal requests are answered once: those in flight share one computation, later ones a cache.

Sampling is seeded, so an equal request would get the same answer again. A computation belongs to
all who wait for it: it goes on while one of them is left, whoever came first.
"""

import asyncio
import contextvars
import hashlib
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import attach, get_current

from msrrec.inference.fusion import SideOutput
from msrrec.inference.recommender import RequestMode
from msrrec.log import REQUEST_ID
from msrrec.reasoning.encoding import Query
from serve.fan_out import Delta, FanOutResult
from serve.http_models import RecommendRequest

_ENTRY_BYTES = 2000
"""Bytes of an entry beside its texts and likelihoods."""
_FLOAT_BYTES = 32

Work = Callable[["Flight"], Coroutine[Any, Any, FanOutResult]]
"""Computes an answer; tells its flight when it was admitted, and each delta that it sees."""


def identify(query: Query, mode: RequestMode, *, ranked: bool, version: str) -> bytes:
    """The key of an answer: equal for requests that one version of a model answers alike.

    Titles stand for ids, and the candidates that a catalogue proposed for the catalogue's version.

    Args:
        query: With the seed in its key.
        mode: As requested.
        ranked: Whether all candidates are scored.
        version: Of the model that answers, as a service may have several.
    """
    parts = [version, query.key, query.domain, query.history, query.candidates, mode, ranked]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def identify_body(body: RecommendRequest) -> bytes:
    """A digest that is equal for requests that are alike as they were sent, ``stream`` aside."""
    text = body.model_dump_json(exclude={"stream", "deadline_ms"})
    return hashlib.sha256(text.encode()).digest()


class Flight:
    """One computation of an answer, and the requests that wait for it."""

    def __init__(self, work: Work) -> None:
        """Begin the computation, apart from the request that asks for it first.

        It gets a context of its own: Ray cancels all that was begun in the context of a request
        whose client has left. What it logs and its spans belong to the request that began it.
        """
        self.num_waiting = 1
        self._deltas: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._decided = asyncio.Event()
        self._is_admitted = False
        context = contextvars.Context()
        context.run(REQUEST_ID.set, REQUEST_ID.get())
        context.run(attach, get_current())
        self.task = asyncio.get_running_loop().create_task(work(self), context=context)
        self.task.add_done_callback(self._end)

    @property
    def is_open(self) -> bool:
        """Whether another request may wait for it."""
        return self.num_waiting > 0 and not self.task.done()

    def admit(self) -> None:
        """Called by the work once it was taken."""
        self._is_admitted = True
        self._decided.set()

    def send(self, delta: Delta) -> None:
        """Called by the work for each delta."""
        self._deltas.put_nowait(delta)

    async def admitted(self) -> None:
        """Return once the work was taken; raises its error if it was refused."""
        await self._decided.wait()
        if not self._is_admitted:
            await self.result()

    async def next_delta(self) -> Delta | None:
        """The next delta, None after the last one; for one reader alone."""
        return await self._deltas.get()

    async def result(self) -> FanOutResult:
        """The answer; cancelling this call leaves the computation alone."""
        return await asyncio.shield(self.task)

    async def leave(self) -> None:
        """Wait no longer; without anybody left the computation is cancelled and has ended."""
        self.num_waiting -= 1
        if self.num_waiting == 0 and not self.task.done():
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def _end(self, task: "asyncio.Task[FanOutResult]") -> None:
        if not task.cancelled():
            task.exception()  # whoever waits gets it; it is no error that nobody does
        self._decided.set()
        self._deltas.put_nowait(None)


@dataclass(frozen=True)
class _Entry:
    result: FanOutResult
    until: float
    num_bytes: int


class SharedAnswers:
    """Answers that are being computed, and those of the last seconds."""

    def __init__(
        self,
        max_entries: int,
        max_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin empty.

        Args:
            max_entries: Maximum number of kept answers; the longest unused are dropped first.
            max_bytes: Maximum size of them all.
            ttl_s: Seconds for which an answer is kept; 0 keeps none and computes every request by
                itself.
            clock: Gives the time in seconds.
        """
        self._max_entries, self._max_bytes, self._ttl_s = max_entries, max_bytes, ttl_s
        self._clock = clock
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()
        self._flights: dict[bytes, Flight] = {}
        self._expected: OrderedDict[bytes, None] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def expects(self, body: bytes) -> bool:
        """Whether a request may cost nothing, as one that was sent alike has come before."""
        return body in self._expected

    def expect(self, body: bytes) -> None:
        """Remember that such a request has come, see ``identify_body``."""
        if self._ttl_s > 0:
            self._expected[body] = None
            self._expected.move_to_end(body)
            while len(self._expected) > self._max_entries:
                self._expected.popitem(last=False)

    def find(self, key: bytes) -> FanOutResult | None:
        """The kept answer to an equal request, if there is one."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return entry.result

    def join(self, key: bytes, work: Work) -> tuple[Flight, bool]:
        """The computation of an answer, and whether this call began it; ``leave`` it at the end."""
        flight = self._flights.get(key)
        if flight is not None and flight.is_open:
            flight.num_waiting += 1
            return flight, False
        begun = Flight(work)
        if self._ttl_s > 0:
            self._flights[key] = begun
            begun.task.add_done_callback(lambda _: self._land(key, begun))
        return begun, True

    def _land(self, key: bytes, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled() and flight.task.exception() is None:
            self._keep(key, flight.task.result())

    def _keep(self, key: bytes, result: FanOutResult) -> None:
        size = _size(result)
        if size > self._max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = _Entry(result, self._clock() + self._ttl_s, size)
        self.num_bytes += size
        while len(self._kept) > self._max_entries or self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        self.num_bytes -= self._kept.pop(key).num_bytes


def _size(result: FanOutResult) -> int:
    """Bytes of an answer in memory, about."""
    return _ENTRY_BYTES + sum(map(_size_of_output, result.outputs.values()))


def _size_of_output(output: SideOutput) -> int:
    likelihoods = _FLOAT_BYTES * len(output.candidate_logprobs or ())
    return sys.getsizeof(output.text) + sys.getsizeof(output.reasoning) + likelihoods
