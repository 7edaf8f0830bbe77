"""How often each API key is used: a rate with bursts, and a quota a day."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from msrrec.config import ServeConfig
from serve.http_models import HttpError

_DAY_S = 86_400


@dataclass
class _Use:
    """The use of one key: requests that may come at once, and those of a day (UTC)."""

    left: float
    at: float
    day: int
    today: int = 0


class Quotas:
    """Counts requests by key; each Fusion replica has its share of the limits.

    Args:
        settings: ``requests_per_minute``, ``requests_per_day`` and ``fusion_replicas``.
        clock: Seconds since 1970.
    """

    def __init__(self, settings: ServeConfig, clock: Callable[[], float] = time.time) -> None:
        share = settings.fusion_replicas
        minute, day = settings.requests_per_minute, settings.requests_per_day
        self._per_minute = minute / share if minute else None
        self._per_day = math.ceil(day / share) if day else None
        self._clock = clock
        self._uses: dict[bytes, _Use] = {}

    def count(self, key: bytes) -> None:
        """Count a request of a key; only valid keys are counted, so their number is bounded.

        Raises:
            HttpError: 429 with the seconds until the next request is allowed.
        """
        now = self._clock()
        burst = max(1.0, self._per_minute or 1.0)
        use = self._uses.setdefault(key, _Use(burst, now, int(now // _DAY_S)))
        if use.day != int(now // _DAY_S):
            use.day, use.today = int(now // _DAY_S), 0
        if self._per_day is not None and use.today >= self._per_day:
            raise _too_many("its quota of the day", (use.day + 1) * _DAY_S - now)
        if self._per_minute is not None:
            per_second = self._per_minute / 60
            passed = max(0.0, now - use.at)  # a clock may be set back
            use.left = min(burst, use.left + passed * per_second)
            use.at = now
            if use.left < 1:
                raise _too_many("its rate", (1 - use.left) / per_second)
            use.left -= 1
        use.today += 1

    def add(self, key: bytes, number: int) -> None:
        """Count further requests that came in one that was counted; later ones wait for them.

        Raises:
            HttpError: 429, if the day has no room for them, or as many came in another one since.
        """
        use, now = self._uses[key], self._clock()
        if self._per_day is not None and use.today + number > self._per_day:
            raise _too_many("its quota of the day", (use.day + 1) * _DAY_S - now)
        if self._per_minute is not None and use.left < 0:
            raise _too_many("its rate", -use.left * 60 / self._per_minute)
        use.left -= number
        use.today += number


def _too_many(what: str, seconds: float) -> HttpError:
    return HttpError(
        429,
        "too_many_requests",
        f"this API key has used up {what}; wait for Retry-After seconds",
        retry_after_s=max(1, math.ceil(seconds)),
    )
