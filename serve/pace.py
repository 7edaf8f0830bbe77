"""How long requests take and how many end in a second, as measured on those that ended.

Two figures predict when a newcomer would have its answer:

- A high quantile of the latest times of its mode, where newer ones weigh more.
- The number of requests before it, divided by the requests that end in a second. A request measures
  that rate while it is at work (Little's law), as TCP's BBR measures a path. Only a busy service
  shows what it can do at most, so an idle one can raise the rate but never lower it.
"""

import math
import operator
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

_KEPT = 64
"""Number of the latest requests of a mode that are looked at."""
_AGEING = 0.9
"""Weight of a request's time relative to the one that ended after it."""
_HIGH = 0.9
"""The quantile that predicts: nine of ten requests take at most as long."""
_SMOOTHING = 0.1
"""Share of the newest measurement in the rate, and in the mean seconds of a mode."""
_SURE = 0.3
"""The share where one measurement proves the rate wrong: more was answered by a service that was
not busy, or a request was late."""
_BUSY = 1.5
"""Requests that on average take this many times an unhindered one hold each other up."""
_RISE = 1.0005
"""Growth of the unhindered seconds with each request, which lets them follow longer prompts."""

_MAX_SPREAD = 2.0
"""More is no difference between requests, but an engine that was stuck."""
_UNFINISHED = 0.5
"""What counts as answered in a time in which nothing was: the work that was under way."""


class Pace:
    """What was measured on the requests that ended; knows nothing at first, and predicts zero."""

    def __init__(self) -> None:
        self._modes: dict[str, _Times] = {}
        self._rate: float | None = None
        self._mean = 0.0
        self._late_at = -math.inf

    def predict(self, mode: str, num_at_work: int) -> float:
        """Seconds that nine of ten requests of a mode take, beside others; 0 if none was measured.

        Args:
            mode: Of the request.
            num_at_work: Number of requests at work, itself included.
        """
        found = self._modes.get(mode)
        if found is None:
            return 0.0
        return max(found.unhindered, self.drain(num_at_work)) * found.spread()

    def unhindered(self, mode: str) -> float:
        """Mean seconds of a request that others do not hold up; 0 if none was measured."""
        found = self._modes.get(mode)
        return found.unhindered if found else 0.0

    def drain(self, num_requests: int, places: int | None = None) -> float:
        """Seconds until so many requests have ended; 0 while nothing is known of that.

        Args:
            num_requests: Number of requests.
            places: Number of requests that are at work at once, if they are limited.
        """
        rates = [self._rate] if self._rate else []
        if places is not None and self._mean:
            rates.append(places / self._mean)
        return num_requests / min(rates) if rates else 0.0

    def add(
        self, mode: str, seconds: float, num_answered: int, now: float, *, late: bool = False
    ) -> None:
        """Learn from a request that ended.

        Args:
            mode: Of the request.
            seconds: How long it was at work.
            num_answered: Number of requests that were answered in that time, this one included.
            now: When it ended, in seconds of a steady clock.
            late: Whether its time was over before it was answered, which shows only that it would
                have taken longer.
        """
        seconds = max(seconds, 1e-6)
        if late and seconds < self.unhindered(mode):
            return  # the client was in too great a hurry
        times = self._modes.setdefault(mode, _Times())
        times.add(seconds)
        self._mean += _SMOOTHING * (seconds - self._mean) if self._mean else seconds
        rate = (num_answered or _UNFINISHED) / seconds
        is_busy = times.mean > _BUSY * times.unhindered
        if self._rate is None:
            self._rate = rate if is_busy or late else None
        elif late:
            if now - self._late_at > seconds:  # many are late together, for one reason
                self._late_at = now
                self._rate += _SURE * (min(rate, self._rate) - self._rate)
        elif is_busy or rate > self._rate:
            self._rate += (_SMOOTHING if is_busy else _SURE) * (rate - self._rate)


class _Times:
    """Seconds of one mode's requests: the latest, their smoothed mean, and the lowest such mean."""

    def __init__(self) -> None:
        self.latest: deque[float] = deque(maxlen=_KEPT)
        self.mean = self.unhindered = 0.0

    def add(self, seconds: float) -> None:
        self.latest.append(seconds)
        count = len(self.latest)
        self.mean += max(_SMOOTHING, 1 / count) * (seconds - self.mean)
        few = count * _SMOOTHING <= 1
        self.unhindered = self.mean if few else min(self.mean, self.unhindered * _RISE)

    def spread(self) -> float:
        """A high quantile of the latest seconds, divided by their mean; from 1 to 2."""
        found = weighted_quantile(self.latest, _HIGH) / weighted_mean(self.latest)
        return max(1.0, min(_MAX_SPREAD, found))


def weighted_quantile(oldest_first: Sequence[float], share: float) -> float:
    """The quantile of values of which each weighs 0.9 of the one after it.

    Args:
        oldest_first: At least one value.
        share: The share of the weight at or below the quantile, over 0 to 1.
    """
    weights = _weights(len(oldest_first))
    wanted, reached = share * sum(weights), 0.0
    for value, weight in sorted(zip(oldest_first, weights, strict=True)):
        reached += weight
        if reached >= wanted - 1e-12:
            return value
    return max(oldest_first)


def weighted_mean(oldest_first: Sequence[float]) -> float:
    """The mean of values, at least one, of which each weighs 0.9 of the one after it."""
    weights = _weights(len(oldest_first))
    return math.fsum(map(operator.mul, oldest_first, weights)) / sum(weights)


@lru_cache(maxsize=_KEPT)
def _weights(count: int) -> tuple[float, ...]:
    return tuple(_AGEING**age for age in reversed(range(count)))
