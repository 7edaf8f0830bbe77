"""Which call comes next, and when enough are made; knows nothing of Ray, HTTP or time.

Near the threshold no more calls are launched than the acceptance rate so far makes likely to be
needed, so few answers are paid for in vain.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping

Ask = tuple[str, int]
"""Example id and 0-based attempt."""


class Plan:
    """The calls of one run: every open example once, those without a valid path again.

    Attributes:
        num_valid: Examples with a valid path.
        num_answers: Answers judged, earlier runs included.
        num_failed: Calls without an answer in this run.
        failed_in_a_row: The latest of them without an answer in between.
        in_flight: Calls taken and not yet reported.
    """

    def __init__(
        self,
        example_ids: Iterable[str],
        attempts: int,
        tau: int | None,
        answered: Mapping[str, Mapping[int, bool]],
    ) -> None:
        """Plan around the answers at hand.

        Args:
            example_ids: In the order to ask.
            attempts: Answers asked for per example while none is valid.
            tau: Valid paths to stop at; None for one pass over all.
            answered: Example to attempt to whether that answer is valid.
        """
        self.tau, self.attempts = tau, attempts
        self.num_valid = sum(any(valid.values()) for valid in answered.values())
        self.num_answers = sum(len(valid) for valid in answered.values())
        self.num_failed = self.failed_in_a_row = self.in_flight = 0
        open_asks: list[tuple[int, str]] = []
        for example_id in example_ids:
            seen = answered.get(example_id, {})
            if not any(seen.values()):
                attempt = next(n for n in range(attempts + 1) if n not in seen)
                open_asks.append((attempt, example_id))
        open_asks.sort(key=lambda ask: ask[0])  # stable: first attempts first, in order
        self._queue: deque[Ask] = deque((e, n) for n, e in open_asks if n < attempts)

    @property
    def num_queued(self) -> int:
        """Calls that are certain to be wanted if tau never comes."""
        return len(self._queue)

    @property
    def is_finished(self) -> bool:
        """Whether tau is reached, or nothing is left to ask or to wait for."""
        return self._has_enough or not (self._queue or self.in_flight)

    @property
    def _has_enough(self) -> bool:
        return self.tau is not None and self.num_valid >= self.tau

    def take(self, count: int) -> list[Ask]:
        """At most ``count`` calls to make now."""
        if self.tau is not None:
            rate = (self.num_valid + 1) / (self.num_answers + 1)
            wanted = math.ceil((self.tau - self.num_valid) / min(1.0, rate))
            count = min(count, wanted - self.in_flight)
        taken = [self._queue.popleft() for _ in range(min(max(count, 0), len(self._queue)))]
        self.in_flight += len(taken)
        return taken

    def report(self, ask: Ask, is_valid: bool | None) -> None:
        """What became of a call: valid or not, or None where no answer came."""
        example_id, attempt = ask
        self.in_flight -= 1
        if is_valid is None:
            self.num_failed += 1
            self.failed_in_a_row += 1
            return
        self.failed_in_a_row = 0
        self.num_answers += 1
        self.num_valid += is_valid
        if not is_valid and attempt + 1 < self.attempts:
            self._queue.append((example_id, attempt + 1))

    def give_back(self, ask: Ask) -> None:
        """A call whose actor died before its answer was written: it is made again, first."""
        self.in_flight -= 1
        self._queue.appendleft(ask)
