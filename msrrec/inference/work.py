"""The batches of a run, and what becomes of a batch whose engine was lost.

A lost machine says nothing about the examples that its engine held: they are tried again as they
are. A process that died on a machine that still lives may have been killed by one of its examples,
so that batch is tried again in parts, down to single examples. An example is given up only when two
engines died while each held it alone, and only where engines can answer at all.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from msrrec.schema import Example

_NUM_PARTS = 16
"""Parts of a batch whose engine died. Each level of parts costs an engine start, so there are two
levels below the default of 256 examples where halves would need eight."""

_DEADLY = 2
"""Engines that an example must kill alone to be given up."""

_MAX_ATTEMPTS = 4
"""Engines in a row, for each place in the pool, that may die before anything new arrives."""


@dataclass(frozen=True)
class Batch:
    """Examples that one engine generates for at once.

    Attributes:
        begin: The 0-based place of the first example among all; the others follow within
            ``end``, perhaps with gaps.
        end: The place after the last example.
        deaths: Ids of the nodes on which engines died while they held this batch.
    """

    begin: int
    end: int
    examples: tuple[Example, ...]
    deaths: tuple[str, ...] = ()

    def parts(self) -> list["Batch"]:
        """The same examples in smaller batches."""
        size = math.ceil(len(self.examples) / _NUM_PARTS)
        starts = range(0, len(self.examples), size)
        return [replace(self, examples=self.examples[n : n + size], deaths=()) for n in starts]


class Work:
    """Batches that wait for an engine: new ones first, then those whose engine was lost.

    A batch that may be deadly comes last, so that it costs the others nothing.
    """

    def __init__(self, batches: Iterable[Batch], num_engines: int, has_answers: bool) -> None:
        """Begin.

        Args:
            batches: New batches; they are drawn one by one.
            num_engines: Number of engines that work at once.
            has_answers: Whether engines with the same settings have answered in an earlier run.
        """
        self._new, self._next, self._again = iter(batches), deque[Batch](), deque[Batch]()
        self._num_engines, self._has_answers = num_engines, has_answers
        self._num_lost = 0

    def count_waiting(self, limit: int) -> int:
        """Number of batches that wait, counted no further than a limit."""
        self._next.extend(islice(self._new, max(0, limit - len(self._next))))
        return min(limit, len(self._next) + len(self._again))

    def take(self) -> Batch | None:
        """The next batch; None if there is none for now."""
        self.count_waiting(1)
        waiting = self._next or self._again
        return waiting.popleft() if waiting else None

    def report_answers(self) -> None:
        """Outputs of a batch arrived."""
        self._num_lost, self._has_answers = 0, True

    def report_lost_engine(self, batch: Batch | None) -> None:
        """An engine was lost with its machine, or before it held a batch."""
        self._num_lost += 1
        if batch:
            self._again.append(batch)

    def report_death(self, batch: Batch, node: str, living: Collection[str]) -> Batch | None:
        """An engine was lost while it held a batch.

        Args:
            batch: The batch.
            node: Id of the node of the engine.
            living: Ids of the nodes that are alive.

        Returns:
            The batch if it is one example that is given up; else None, and it is tried again.
        """
        if node not in living:
            self.report_lost_engine(batch)
            return None
        self._num_lost += 1
        if len(batch.examples) > 1:
            self._again.extend(batch.parts())
            return None
        # A machine may die a little after the engines on it; such deaths do not count.
        deaths = tuple(n for n in (*batch.deaths, node) if n in living)
        if len(deaths) >= _DEADLY and self._has_answers:
            self._num_lost = 0
            return batch
        self._again.append(replace(batch, deaths=deaths))
        return None

    @property
    def num_attempts(self) -> int:
        """How often in a row every engine was lost, with nothing new in between."""
        return math.ceil(self._num_lost / self._num_engines)

    @property
    def is_hopeless(self) -> bool:
        """Whether it makes no sense to start another engine."""
        return self._num_lost >= _MAX_ATTEMPTS * self._num_engines
