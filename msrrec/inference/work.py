"""The batches of a run, and what becomes of a batch whose engine was lost.

A lost machine says nothing about the examples that its engine held: they are tried again as they
are. A process that died on a machine that still lives may have been killed by one of its examples,
so its batches are suspects: each is tried again by an engine that holds nothing else, and in parts
if that one dies too, down to single examples. An example is given up only when two engines died
while each held it alone, and only where engines can answer at all.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence, Set
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
        is_suspect: Whether an engine died while it held these examples.
        deaths: Ids of the nodes on which engines died while they held this batch alone.
    """

    begin: int
    end: int
    examples: tuple[Example, ...]
    is_suspect: bool = False
    deaths: tuple[str, ...] = ()

    def without(self, example_ids: Set[str]) -> "Batch":
        """The same batch without some of its examples."""
        left = tuple(e for e in self.examples if e.example_id not in example_ids)
        return replace(self, examples=left)

    def parts(self) -> list["Batch"]:
        """The same examples in smaller batches, all of them suspects."""
        size = math.ceil(len(self.examples) / _NUM_PARTS)
        found = (self.examples[n : n + size] for n in range(0, len(self.examples), size))
        return [replace(self, examples=some, is_suspect=True, deaths=()) for some in found]


class Work:
    """Batches that wait for an engine: new ones, those of lost machines, then suspects.

    Batches that may be deadly come last, so that they cost the others nothing.
    """

    def __init__(self, batches: Iterable[Batch], num_engines: int, has_answers: bool) -> None:
        """Begin.

        Args:
            batches: New batches; they are drawn one by one.
            num_engines: Number of engines that work at once.
            has_answers: Whether engines with the same settings have answered in an earlier run.
        """
        self._new, self._next = iter(batches), deque[Batch]()
        self._again, self._suspects = deque[Batch](), deque[Batch]()
        self._num_engines, self._has_answers = num_engines, has_answers
        self._num_lost = 0

    def count_waiting(self, limit: int) -> int:
        """Number of batches that wait, counted no further than a limit."""
        self._next.extend(islice(self._new, max(0, limit - len(self._next))))
        return min(limit, len(self._next) + len(self._again) + len(self._suspects))

    def take(self, beside_others: bool = False) -> Batch | None:
        """The next batch; None if there is none for now.

        Args:
            beside_others: Whether the engine that gets it has others, so it must be no suspect.
        """
        self.count_waiting(1)
        waiting = self._next or self._again or (not beside_others and self._suspects)
        return waiting.popleft() if waiting else None

    def report_answers(self) -> None:
        """Outputs of a batch arrived."""
        self._num_lost, self._has_answers = 0, True

    def report_lost_engine(self, batches: Sequence[Batch]) -> None:
        """An engine was lost with its machine, or before it held a batch."""
        self._num_lost += 1
        self._try_again(batches)

    def report_death(
        self, batches: Sequence[Batch], node: str, living: Collection[str]
    ) -> Batch | None:
        """An engine was lost while it held batches.

        Args:
            batches: The batches, at least one.
            node: Id of the node of the engine.
            living: Ids of the nodes that are alive.

        Returns:
            The batch if it is one example that is given up; else None, and all are tried again.
        """
        if node not in living:
            self.report_lost_engine(batches)
            return None
        if len(batches) > 1:
            # It only says which batches to try alone. Where others wait for that already, engines
            # may be dying whatever they hold.
            self._num_lost += bool(self._suspects)
            self._try_again([replace(batch, is_suspect=True) for batch in batches])
            return None
        self._num_lost += 1
        (batch,) = batches
        if len(batch.examples) > 1:
            self._try_again(batch.parts())
            return None
        # A machine may die a little after the engines on it; such deaths do not count.
        deaths = tuple(n for n in (*batch.deaths, node) if n in living)
        if len(deaths) >= _DEADLY and self._has_answers:
            self._num_lost = 0
            return batch
        self._try_again([replace(batch, is_suspect=True, deaths=deaths)])
        return None

    def _try_again(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            (self._suspects if batch.is_suspect else self._again).append(batch)

    @property
    def num_attempts(self) -> int:
        """How often in a row every engine was lost, with nothing new in between."""
        return math.ceil(self._num_lost / self._num_engines)

    @property
    def is_hopeless(self) -> bool:
        """Whether it makes no sense to start another engine."""
        return self._num_lost >= _MAX_ATTEMPTS * self._num_engines
