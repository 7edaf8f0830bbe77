"""The Ray actors that hold engines, and the loop that gives them batches.

Each engine has one batch at a time, so it is known which examples a dead engine held. Ray Data's
actor pool does not tell: it restarts an actor without limit or ends the whole dataset, retries its
batch as it is, and reports lost blocks only in its log.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from msrrec.errors import EngineError, last_line
from msrrec.inference.work import Batch, Work

logger = logging.getLogger(__name__)

DEADLY = "two engines died while each held this example alone"
"""How the reason of an example that is given up begins."""

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


@dataclass
class _Engine:
    """One actor.

    Attributes:
        actor: Ray's handle.
        node: Id of its node; empty until it has started.
        batch: What it generates for. One that starts holds nothing back, as Ray may have no room
            for it until another ends.
    """

    actor: Any
    node: str = ""
    batch: Batch | None = None


@dataclass(frozen=True)
class Deadly:
    """An example that is given up, and why."""

    batch: Batch
    reason: str


class EnginePool:
    """The engines of one run; lost ones are replaced.

    Args:
        start: Starts an actor with the methods ``locate`` and ``generate``.
        encode: The rows that an engine is given for a batch.
        work: The batches.
        num_engines: Number of engines at once.
        name: The model's name, for messages.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        encode: Callable[[Batch], pa.Table],
        work: Work,
        num_engines: int,
        name: str,
    ) -> None:
        self._start, self._encode, self._work = start, encode, work
        self._num_engines, self._name = num_engines, name
        self._starting: dict[Any, _Engine] = {}
        self._busy: dict[Any, _Engine] = {}
        self._idle: list[_Engine] = []
        self._next_start_s = self._reported_s = time.monotonic()

    def run(self) -> Iterator[tuple[Batch, pa.Table] | Deadly]:
        """The outputs of every batch as they arrive, and the examples that were given up.

        Raises:
            EngineError: If an engine reports an error, or engines die without anything new.
        """
        import ray

        try:
            while self._busy or self._work.count_waiting(1):
                self._give_out()
                yield from self._collect()
        finally:
            for engine in (*self._idle, *self._starting.values(), *self._busy.values()):
                ray.kill(engine.actor)

    def _give_out(self) -> None:
        """Give batches to idle engines, and start engines for what is left."""
        while self._idle and (batch := self._work.take()):
            engine = self._idle.pop()
            engine.batch = batch
            self._busy[engine.actor.generate.remote(self._encode(batch))] = engine
        room = self._num_engines - len(self._busy) - len(self._idle)
        num_wanted = self._work.count_waiting(room)
        if time.monotonic() >= self._next_start_s:
            while len(self._starting) < num_wanted:
                engine = _Engine(self._start())
                self._starting[engine.actor.locate.remote()] = engine

    def _collect(self) -> Iterator[tuple[Batch, pa.Table] | Deadly]:
        """Wait until a task ends, an engine may start or a line is due; what the task brought."""
        import ray

        pause_s = self._next_start_s - time.monotonic()
        timeout_s = min(pause_s, _POLL_S) if pause_s > 0 else _POLL_S
        tasks = [*self._busy, *self._starting]
        if not tasks:
            time.sleep(timeout_s)
            return
        ready, _ = ray.wait(tasks, num_returns=1, timeout=timeout_s)
        for ref in ready:
            engine = self._busy.pop(ref, None) or self._starting.pop(ref)
            yield from self._settle(engine, ref)
        if not ready:
            self._report_waiting()

    def _settle(self, engine: _Engine, ref: Any) -> Iterator[tuple[Batch, pa.Table] | Deadly]:
        """What a task that ended means for its engine and batch."""
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        try:
            found = ray.get(ref)
        except RayTaskError as error:
            raise self._failed(root_cause(error)) from error
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise self._failed(root_cause(error)) from error
            yield from self._replace(engine, error)
            return
        if engine.batch is None:
            engine.node = found
        else:
            yield self._accept(engine.batch, found)
        engine.batch = None
        self._idle.append(engine)

    def _accept(self, batch: Batch, outputs: pa.Table) -> tuple[Batch, pa.Table]:
        failures = outputs["failure"].drop_null()
        if len(failures):
            raise EngineError(str(failures[0]))
        self._work.report_answers()
        return batch, outputs

    def _replace(self, engine: _Engine, error: Exception) -> Iterator[Deadly]:
        """Decide on the batch of a lost engine, and when another engine may start."""
        import ray

        ray.kill(engine.actor)  # it may live although its outputs were lost
        living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        # Only a process that died on a machine that lives may have been killed by its batch.
        is_suspect = isinstance(error, ray.exceptions.ActorDiedError) and engine.node in living
        cause, deadly = root_cause(error), None
        _log_loss(engine, is_suspect, cause)
        if engine.batch and is_suspect:
            deadly = self._work.report_death(engine.batch, engine.node, living)
        else:
            self._work.report_lost_engine(engine.batch)
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
    num_held = len(engine.batch.examples) if engine.batch else 0
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
