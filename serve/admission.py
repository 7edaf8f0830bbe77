"""Admission control: a request is taken if it can be answered in time, and refused at once if not.

The number of requests at work follows the measured times as TCP follows lost packets (additive
increase, multiplicative decrease): up while requests keep well within their deadlines, down where
one does not. A deadline counts only if an unhindered request could meet it twice, so that clients
who are in a great hurry do not narrow the service for the others.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serve.http_models import HttpError
from serve.limits import overloaded
from serve.pace import Pace

_DECREASE = 0.9
_TIGHT = 0.85
"""A request at work for more than this share of its time, from when it came, is a reason to take
fewer at once. What it waited does not count as work: a full batch does more in a second, so taking
fewer because the line is long would make the line longer."""
_UNHINDERED = 2.0
"""But only if it took this many times an unhindered request's time."""
_SPARE = 1.1
"""Predicted seconds are taken this many times, as some requests take longer."""
_MAX_RETRY_AFTER_S = 60


class AdmissionControl:
    """The requests at work and the line of those that wait.

    Attributes:
        max_ongoing: Maximum number of requests at work.
        max_queued: Maximum number of requests that wait.
        ongoing: Number of requests at work.
        pace: What was measured.
    """

    def __init__(self, max_ongoing: int, max_queued: int) -> None:
        self.max_ongoing, self.max_queued = max_ongoing, max_queued
        self.ongoing = 0
        self.pace = Pace()
        self._limit = float(max_ongoing)
        self._line: deque[_Waiting] = deque()
        self._num_answered = 0
        self._decreased = -math.inf

    @property
    def queued(self) -> int:
        """Number of requests that wait."""
        return len(self._line)

    @property
    def limit(self) -> int:
        """Number of requests that may be at work now."""
        return max(1, int(self._limit))

    def check(self, mode: str, deadline: float) -> None:
        """Refuse a request that would not be answered in time, or finds no place in the line.

        Args:
            mode: What is asked for; each mode's times are measured by themselves.
            deadline: By the clock of the running event loop, in seconds.

        Raises:
            HttpError: 503 with Retry-After.
        """
        if self.ongoing + self.queued == 0:
            return  # nobody is before it: the only way to learn that requests have become faster
        time_left = deadline - _now()
        late_by = self._predict(mode) - time_left
        if late_by > 0:
            raise self._late(mode, time_left, late_by)
        if self.ongoing >= self.limit and self.queued >= self.max_queued:
            raise overloaded(retry_after_s=self.retry_after())

    async def enter(self, mode: str, deadline: float) -> "Place":
        """Wait for a place in the order of arrival; arguments and errors as of ``check``.

        A request that can no longer be answered in time leaves the line at once.
        """
        self.check(mode, deadline)
        came = _now()
        if self.ongoing < self.limit and not self._line:
            return self._give(mode, came, deadline)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(mode, came, deadline, loop.create_future())
        self._line.append(waiting)
        self._watch(waiting)
        try:
            return await waiting.place
        except asyncio.CancelledError:
            self._abandon(waiting)
            raise

    def retry_after(self) -> int:
        """Seconds until all who are here now will have their answers, from 1 to 60."""
        return _whole(self.pace.drain(self.ongoing + self.queued, self.limit))

    def end(self, place: "Place") -> None:
        """Free a place, and give it to whoever is next; called by the place."""
        self.ongoing -= 1
        while self._line and self.ongoing < self.limit:
            waiting = self._line.popleft()
            if not waiting.place.done() and not self._refuse_if_late(waiting):
                place = self._give(waiting.mode, waiting.came, waiting.deadline)
                waiting.place.set_result(place)

    def measure(self, place: "Place", *, late: bool) -> None:
        """Learn from a request that got its answer, or did not in time; called by the place."""
        now = _now()
        seconds = now - place.began
        self._num_answered += not late
        num_answered = self._num_answered - place.answered_before
        unhindered = self.pace.unhindered(place.mode)
        self.pace.add(place.mode, seconds, num_answered, now, late=late)
        if seconds > max(_TIGHT * (place.deadline - place.came), _UNHINDERED * unhindered):
            if now - self._decreased > seconds:  # those at work saw the limit of before
                self._limit = max(1.0, self._limit * _DECREASE)
                self._decreased = now
        elif 2 * self.ongoing >= self.limit:
            self._limit = min(float(self.max_ongoing), self._limit + 1 / self._limit)

    def _predict(self, mode: str) -> float:
        """Seconds until a newcomer would have its answer."""
        at_work = min(self.ongoing + 1, self.limit)
        is_full = self.ongoing >= self.limit
        waits = self.pace.drain(self.queued + 1, self.limit) if is_full else 0.0
        return _SPARE * (waits + self.pace.predict(mode, at_work))

    def _needed(self, waiting: "_Waiting") -> float:
        """Seconds that a waiting request will take once it has a place."""
        return self.pace.predict(waiting.mode, self.limit)

    def _give(self, mode: str, came: float, deadline: float) -> "Place":
        self.ongoing += 1
        return Place(self, mode, came, deadline, self._num_answered)

    def _watch(self, waiting: "_Waiting") -> None:
        """Refuse a waiting request at the time when it could no longer be answered."""
        if waiting.place.done() or self._refuse_if_late(waiting):
            return
        loop = asyncio.get_running_loop()
        latest = waiting.deadline - self._needed(waiting)
        loop.call_at(latest + 0.001, self._watch, waiting)

    def _refuse_if_late(self, waiting: "_Waiting") -> bool:
        time_left = waiting.deadline - _now()
        needed = self._needed(waiting)
        if time_left >= needed or needed == 0:
            return False
        self._forget(waiting)
        waiting.place.set_exception(self._late(waiting.mode, time_left, needed - time_left))
        return True

    def _abandon(self, waiting: "_Waiting") -> None:
        """A client that waited is gone; it may have been given a place in the same moment."""
        self._forget(waiting)
        given = waiting.place
        if given.done() and not given.cancelled() and given.exception() is None:
            given.result().leave()

    def _forget(self, waiting: "_Waiting") -> None:
        if waiting in self._line:
            self._line.remove(waiting)

    def _late(self, mode: str, time_left: float, late_by: float) -> HttpError:
        message = "the service is full: no answer would be ready in time; try again later"
        if time_left < self.pace.unhindered(mode):
            message = (
                f"deadline_ms: {max(0.0, time_left):.2f} s are left, and the fastest answers of "
                f"mode {mode} take {self.pace.unhindered(mode):.2f} s; allow more time"
            )
        return overloaded(message, retry_after_s=_whole(late_by))


@dataclass(eq=False)
class _Waiting:
    """A request in the line."""

    mode: str
    came: float
    deadline: float
    place: "asyncio.Future[Place]"


class Place:
    """The place of a request at work; the end of a ``with`` block frees it, and so does ``leave``.

    Attributes:
        mode: Of the request.
        came: When it asked for a place, in seconds of the loop's clock.
        began: When it got the place, likewise.
        deadline: By which it must be answered, likewise.
        answered_before: Number of requests that had been answered when it got the place.
    """

    def __init__(
        self,
        admission: AdmissionControl,
        mode: str,
        came: float,
        deadline: float,
        answered_before: int,
    ) -> None:
        self._admission = admission
        self.mode, self.came, self.began, self.deadline = mode, came, _now(), deadline
        self.answered_before = answered_before
        self._is_measured = self._is_free = False

    def measure(self, *, late: bool = False) -> None:
        """Say that the answer is ready, or that its time is over; other ends teach nothing."""
        if not self._is_measured:
            self._is_measured = True
            self._admission.measure(self, late=late)

    def leave(self) -> None:
        """Free the place, if that has not happened."""
        if not self._is_free:
            self._is_free = True
            self._admission.end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        late = isinstance(error, HttpError) and error.status == 504
        if error is None or late:
            self.measure(late=late)
        self.leave()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _whole(seconds: float) -> int:
    """Whole seconds of a Retry-After header."""
    return max(1, min(_MAX_RETRY_AFTER_S, math.ceil(seconds)))
