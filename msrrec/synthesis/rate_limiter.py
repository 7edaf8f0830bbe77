"""How many calls one teacher has at once, and how often one begins.

The number in flight follows the teacher: halved when it throttles, then slowly raised again
(additive increase, multiplicative decrease, as in TCP). Rates are spaced evenly, so no minute
holds more than is allowed.
"""

import asyncio
import time

_INCREASE_SHARE = 16
"""After a cut, the limit grows by this part of its most with every full set of answers."""
_LATE_S = 0.05
"""A call that begins less late does not push the later ones back."""


class RateLimiter:
    """The limits of one teacher in one actor.

    Attributes:
        limit: Most calls in flight now; at least 1.
        in_flight: Calls begun and not ended.
        requests_per_s: Most calls that begin in a second; None for any number.
        tokens_per_s: Most tokens, prompts and answers, that calls of a second may cost; None for
            any number.
    """

    def __init__(
        self,
        most: int,
        requests_per_s: float | None = None,
        tokens_per_s: float | None = None,
    ) -> None:
        self.most, self.limit, self.in_flight = most, float(most), 0
        self.requests_per_s, self.tokens_per_s = requests_per_s, tokens_per_s
        self._next_request_s = self._next_token_s = self._paused_until_s = 0.0
        self._cut_s = 0.0
        self._turn = asyncio.Lock()

    @property
    def has_room(self) -> bool:
        """Whether one more call may be in flight."""
        return self.in_flight < int(self.limit)

    @property
    def is_paused(self) -> bool:
        """Whether the teacher asked to be left alone for now."""
        return time.monotonic() < self._paused_until_s

    async def acquire(self, tokens: float) -> float:
        """Wait until a call that may cost so many tokens may begin; the moment it does.

        The call is in flight from before the wait until ``release``.
        """
        self.in_flight += 1
        if not (self.requests_per_s or self.tokens_per_s or self.is_paused):
            return time.monotonic()
        try:
            async with self._turn:  # one waits for its moment, the others for their turn
                while (wait_s := self._next_s() - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                return self._book(tokens)
        except asyncio.CancelledError:
            self.in_flight -= 1
            raise

    def release(self) -> None:
        """A call has ended, with whatever outcome."""
        self.in_flight -= 1

    def on_answer(self) -> None:
        """An answer came: more may be tried at once."""
        if self.limit < self.most:
            step = max(1.0, self.most / _INCREASE_SHARE)
            self.limit = min(self.most, self.limit + step / self.limit)

    def settle(self, booked: float, tokens: float) -> None:
        """The tokens that a call did cost, beside those booked when it began."""
        if self.tokens_per_s:
            self._next_token_s += (tokens - booked) / self.tokens_per_s

    def on_overload(self, began_s: float, wait_s: float) -> bool:
        """The teacher refused a call that began then: fewer at once, and none for ``wait_s``.

        Returns:
            Whether the limit was cut; calls that began before the last cut don't cut again.
        """
        self._paused_until_s = max(self._paused_until_s, time.monotonic() + wait_s)
        if began_s <= self._cut_s:
            return False
        self._cut_s = time.monotonic()
        self.limit = max(1.0, self.limit / 2)
        return True

    def _next_s(self) -> float:
        return max(self._next_request_s, self._next_token_s, self._paused_until_s)

    def _book(self, tokens: float) -> float:
        """Begin now, and set the moments before which no other call may."""
        now = time.monotonic()
        if self.requests_per_s:
            self._next_request_s = _since(self._next_request_s, now) + 1 / self.requests_per_s
        if self.tokens_per_s:
            self._next_token_s = _since(self._next_token_s, now) + tokens / self.tokens_per_s
        return now


def _since(moment_s: float, now: float) -> float:
    """Where the next interval is measured from: a moment just past, so that none is lost."""
    return moment_s if now - moment_s < _LATE_S else now
