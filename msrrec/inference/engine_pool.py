"""The Ray actors that hold engines, and the loop that gives them batches.

An engine has the next batch before the last is complete, so that it is never idle, and it is known
which examples a dead engine held: those of its batches that it had not sent. Ray Data's actor pool
does not tell: it restarts an actor without limit or ends the whole dataset, retries its batch as it
is, and reports lost blocks only in its log.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from msrrec.config import InferenceConfig
from msrrec.errors import EngineError, last_line
from msrrec.inference.work import Batch, Work

logger = logging.getLogger(__name__)

DEADLY = "two engines died while each held this example alone"
"""How the reason of an example that is given up begins."""

MOST_BATCHES = 16
"""Batches that an engine has at once, at most; each is a call of its actor."""

_LONGEST_PAUSE_S = 30.0
_POLL_S = 1.0
"""Longest wait at a time, as signals are seen between two waits."""
_REPORT_S = 30.0
"""Seconds between two lines that say what is waited for."""

_CHAINED = re.compile(
    r"\n\s*(?:The above exception was the direct cause of|During handling of the above exception)"
)

_ADVICE = " Some common causes include"
"""What follows in Ray's messages on dead processes is general advice."""


@dataclass(eq=False)
class _Engine:
    """One actor.

    Attributes:
        actor: Ray's handle.
        node: Id of its node; empty until it has started.
        held: The batches that it generates for, without the examples that it has sent, by the task
            that Ray runs. An engine that starts holds nothing back, as Ray may have no room for it
            until another ends.
    """

    actor: Any
    node: str = ""
    held: dict[Any, Batch] = field(default_factory=dict)

    @property
    def num_left(self) -> int:
        """Number of examples that it has not sent yet."""
        return sum(len(batch.examples) for batch in self.held.values())

    @property
    def has_suspect(self) -> bool:
        """Whether it holds a batch that may be deadly, and so must hold it alone."""
        return any(batch.is_suspect for batch in self.held.values())


@dataclass(frozen=True)
class Arrived:
    """Outputs of some examples of a batch."""

    batch: Batch
    table: pa.Table
    num_examples: int


@dataclass(frozen=True)
class Deadly:
    """An example that is given up, and why."""

    batch: Batch
    reason: str


class _Lost(Exception):
    """An engine was lost while a task ran."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class EnginePool:
    """The engines of one run; lost ones are replaced.

    Args:
        start: Starts an actor with the methods ``locate`` and ``generate``.
        encode: The rows that an engine is given for a batch.
        work: The batches.
        config: The number of engines, and how many examples each works on.
        name: The model's name, for messages.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        encode: Callable[[Batch], pa.Table],
        work: Work,
        config: InferenceConfig,
        name: str,
    ) -> None:
        self._start, self._encode, self._work = start, encode, work
        self._num_engines, self._name = config.num_engines, name
        # Two batches wait beside those that are worked on, as outputs arrive in groups: some of
        # what counts as left is complete.
        self._enough_left = 2 * config.batch_size
        self._starting: dict[Any, _Engine] = {}
        self._ready: list[_Engine] = []
        self._next_start_s = self._reported_s = time.monotonic()

    def run(self) -> Iterator[Arrived | Deadly]:
        """The outputs as they arrive, and the examples that were given up.

        Raises:
            EngineError: If an engine reports an error, or engines die without anything new.
        """
        import ray

        try:
            while any(engine.held for engine in self._ready) or self._work.count_waiting(1):
                self._give_out()
                yield from self._collect()
        finally:
            for engine in (*self._ready, *self._starting.values()):
                ray.kill(engine.actor)

    def _give_out(self) -> None:
        """Give batches to engines, the emptiest first, and start engines for what is left."""
        while engine := self._next_free():
            batch = self._work.take(beside_others=bool(engine.held))
            if batch is None:
                break
            engine.held[engine.actor.generate.remote(self._encode(batch))] = batch
        room = self._num_engines - len(self._ready)
        num_wanted = self._work.count_waiting(room)
        if time.monotonic() >= self._next_start_s:
            while len(self._starting) < num_wanted:
                engine = _Engine(self._start())
                self._starting[engine.actor.locate.remote()] = engine

    def _next_free(self) -> _Engine | None:
        """Of the engines that should have another batch, one without any, else the emptiest."""
        free = [engine for engine in self._ready if self._should_have_another(engine)]
        return min(free, key=lambda one: (bool(one.held), one.num_left), default=None)

    def _should_have_another(self, engine: _Engine) -> bool:
        """Whether it has no batch, or too little left and as many wait for each that starts."""
        num_held = len(engine.held)
        if not num_held:
            return True
        if engine.has_suspect or engine.num_left > self._enough_left or num_held >= MOST_BATCHES:
            return False
        num_kept = num_held * len(self._starting)
        return self._work.count_waiting(num_kept + 1) > num_kept

    def _collect(self) -> Iterator[Arrived | Deadly]:
        """Wait until something arrives, an engine may start or a line is due; what arrived."""
        import ray

        pause_s = self._next_start_s - time.monotonic()
        timeout_s = min(pause_s, _POLL_S) if pause_s > 0 else _POLL_S
        busy = {task: engine for engine in self._ready for task in engine.held}
        tasks = [*self._starting, *busy]  # of those that are ready, Ray names the first
        if not tasks:
            time.sleep(timeout_s)
            return
        ready, _ = ray.wait(tasks, num_returns=1, timeout=timeout_s)
        for task in ready:
            if task in busy:
                yield from self._receive(busy[task], task)
            else:
                yield from self._settle_start(self._starting.pop(task), task)
        if not ready:
            self._report_waiting()

    def _settle_start(self, engine: _Engine, task: Any) -> Iterator[Deadly]:
        """An engine has started, or was lost before."""
        try:
            engine.node = self._get(task)
        except _Lost as lost:
            yield from self._replace(engine, lost.cause)
        else:
            self._ready.append(engine)

    def _receive(self, engine: _Engine, task: Any) -> Iterator[Arrived | Deadly]:
        """The next outputs of a task, or what its end means."""
        try:
            table = self._get(next(task))
        except StopIteration:
            del engine.held[task]
        except _Lost as lost:
            self._ready.remove(engine)
            yield from self._replace(engine, lost.cause)
        else:
            yield self._accept(engine, task, table)

    def _get(self, ref: Any) -> Any:
        """What a task returned.

        Raises:
            EngineError: If it failed.
            _Lost: If its engine was lost.
        """
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        try:
            return ray.get(ref)
        except RayTaskError as error:
            raise self._failed(root_cause(error)) from error
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise self._failed(root_cause(error)) from error
            raise _Lost(error) from error

    def _accept(self, engine: _Engine, task: Any, table: pa.Table) -> Arrived:
        failures = table["failure"].drop_null()
        if len(failures):
            raise EngineError(str(failures[0]))
        self._work.report_answers()
        batch = engine.held[task]
        left = engine.held[task] = batch.without(set(table["example_id"].to_pylist()))
        return Arrived(batch, table, len(batch.examples) - len(left.examples))

    def _replace(self, engine: _Engine, error: Exception) -> Iterator[Deadly]:
        """Decide on the batches of a lost engine, and when another engine may start."""
        import ray

        ray.kill(engine.actor)  # it may live although its outputs were lost
        living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        # Only a process that died on a machine that lives may have been killed by its batches.
        is_suspect = isinstance(error, ray.exceptions.ActorDiedError) and engine.node in living
        cause, deadly = root_cause(error), None
        held = [batch for batch in engine.held.values() if batch.examples]
        _log_loss(engine, is_suspect, cause)
        if held and is_suspect:
            deadly = self._work.report_death(held, engine.node, living)
        else:
            self._work.report_lost_engine(held)
        if self._work.is_hopeless:
            raise self._failed(
                f"{self._work.num_attempts} engines in a row died before anything new arrived; see "
                f"the workers' logs, then run again, which keeps what arrived; the last: {cause}"
            ) from error
        pause_s = min(2.0 ** (self._work.num_attempts - 1), _LONGEST_PAUSE_S)
        self._next_start_s = time.monotonic() + pause_s
        if deadly:
            yield Deadly(deadly, f"{DEADLY} ({cause})")

    def _report_waiting(self) -> None:
        """Say which engines are waited for, from time to time."""
        import ray

        if not self._starting or time.monotonic() - self._reported_s < _REPORT_S:
            return
        self._reported_s = time.monotonic()
        logger.info(
            "recommend: waiting for %d of %d engines to start; the cluster has %s free",
            len(self._starting),
            self._num_engines,
            _shown(ray.available_resources()),
        )

    def _failed(self, reason: str) -> EngineError:
        return EngineError(f"{self._name}: batch inference failed ({reason})")


def _log_loss(engine: _Engine, is_suspect: bool, cause: str) -> None:
    num_held = engine.num_left
    if not engine.node:
        logger.warning("recommend: an engine was lost before it started: %s", cause)
    elif is_suspect:
        then = "tried again in smaller batches" if num_held > 1 else "tried last"
        logger.warning("recommend: an engine died; its %d users are %s: %s", num_held, then, cause)
    else:
        logger.warning(
            "recommend: a machine was lost; its engine's %d users wait for another: %s",
            num_held,
            cause,
        )


def _shown(resources: dict[str, float]) -> str:
    found = [f"{math.floor(resources.get(kind, 0))} {kind}s" for kind in ("CPU", "GPU")]
    return " and ".join(found)


def root_cause(error: BaseException) -> str:
    """The line that names the first of the errors that led to this one.

    Ray's errors carry the traceback of another process in their message; of chained tracebacks the
    first is the cause.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    line = last_line(Exception(_CHAINED.split(str(error))[0])).partition(_ADVICE)[0]
    is_named = type(error).__module__.startswith("ray.")
    return line if is_named else f"{type(error).__name__}: {line}"
