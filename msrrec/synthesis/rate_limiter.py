"""Limits of the calls to one teacher: how many at once, and how often one may begin.

The number in flight adapts to the teacher: it is halved when the teacher throttles, then slowly
raised (additive increase, multiplicative decrease, as in TCP). Calls are spaced evenly, so no
minute exceeds the allowed rates.
"""

import asyncio
import time

_INCREASE_SHARE = 16
"""After a cut, the limit grows by 1 / 16 of its maximum with every full set of completions."""
_LATE_S = 0.05
"""A call that begins less late than this does not delay the following ones."""


class RateLimiter:
    """The limits of one teacher in one actor.

    Attributes:
        limit: Current maximum number of calls in flight; at least 1.
        in_flight: Number of calls begun and not ended.
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
        """Whether the teacher has asked for a pause that is not over."""
        return time.monotonic() < self._paused_until_s

    async def acquire(self, tokens: float) -> float:
        """Wait until a call of so many tokens may begin; returns the time of its begin.

        The call counts as in flight from before the wait until ``release``.
        """
        self.in_flight += 1
        if not (self.requests_per_s or self.tokens_per_s or self.is_paused):
            return time.monotonic()
        try:
            async with self._turn:  # one call waits for its start time, the others queue here
                while (wait_s := self._next_s() - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                return self._book(tokens)
        except asyncio.CancelledError:
            self.in_flight -= 1
            raise

    def release(self) -> None:
        """Record that a call has ended, with any outcome."""
        self.in_flight -= 1

    def on_answer(self) -> None:
        """Record a completion, which may raise the limit."""
        if self.limit < self.most:
            step = max(1.0, self.most / _INCREASE_SHARE)
            self.limit = min(self.most, self.limit + step / self.limit)

    def settle(self, booked: float, tokens: float) -> None:
        """Correct the tokens booked when a call began to those that it used."""
        if self.tokens_per_s:
            self._next_token_s += (tokens - booked) / self.tokens_per_s

    def on_overload(self, began_s: float, wait_s: float) -> bool:
        """Record that the teacher refused a call: halve the limit and pause for ``wait_s``.

        Returns:
            Whether the limit was cut; calls that began before the last cut do not cut it again.
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
        """Begin a call now, and set the times before which no other call may begin."""
        now = time.monotonic()
        if self.requests_per_s:
            self._next_request_s = _since(self._next_request_s, now) + 1 / self.requests_per_s
        if self.tokens_per_s:
            self._next_token_s = _since(self._next_token_s, now) + tokens / self.tokens_per_s
        return now


def _since(moment_s: float, now: float) -> float:
    """Start of the next interval: the planned time if it has only just passed, else now."""
    return moment_s if now - moment_s < _LATE_S else now
