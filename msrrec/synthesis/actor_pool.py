"""The Ray actors of one run, and the loop that gives them calls.

Each actor keeps its calls in flight in its own event loop; the driver only adds calls and learns
which completions were valid. Ray Data would need less code, but its blocks wait for their slowest
call, and its ``limit`` lets whole blocks finish after enough paths exist. It is used for judging
completions instead (see ``verdicts``).
"""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msrrec.engines.placement import engine_resources
from msrrec.errors import DataError, EngineError, MsrRecError, last_line
from msrrec.log import Progress
from msrrec.models import locate_model
from msrrec.synthesis.journal import iter_entries, list_journal_files
from msrrec.synthesis.plan import CallId, Plan
from msrrec.synthesis.requests import Requests
from msrrec.synthesis.teacher_actor import ActorSettings, CallOutcome, TeacherActor
from msrrec.synthesis.verdicts import spending_of, status_of

logger = logging.getLogger(__name__)

_MAX_FAILED_IN_A_ROW = 20
_MAX_DEAD_ACTORS = 5
"""Actors that may die of themselves; those of lost machines do not count."""
_GRACE_S = 5.0
_STOP_GRACE_S = 1.5
"""The same where `ray job stop` ends the run, which kills what has not ended after 3 s."""
_NOT_STARTED_SHARE = 8
"""An actor holds one waiting call per this many in flight, so that a free slot is filled at
once."""
_OVERDUE = 3.0
"""Near a threshold, a call that takes this many times the mean latency is not waited for."""


class ActorPool:
    """The actors of one run, and the calls that each of them holds."""

    def __init__(self, requests: Requests, settings: ActorSettings) -> None:
        import ray

        self._actor_class, self._resources = ray.remote(TeacherActor), _resources(settings)
        self._settings, self._requests = settings, requests
        concurrency = settings.teacher.concurrency * len(settings.teacher.endpoints)
        self._room = concurrency + max(1, concurrency // _NOT_STARTED_SHARE)
        self._actors: dict[int, Any] = {}
        self._held: dict[int, dict[CallId, float]] = {}
        self._waiting: dict[Any, int] = {}
        self._nodes: dict[int, Any] = {}
        self._num_started = self._num_dead = 0
        self._num_outcomes, self._held_s = 0, 0.0

    def add_actor(self) -> None:
        """Start one more actor."""
        n = self._num_started
        self._num_started += 1
        options = {**self._resources, **_place(self._settings, n)}
        self._actors[n] = actor = self._actor_class.options(**options).remote(self._settings)
        self._nodes[n] = actor.locate.remote()
        self._held[n] = {}

    def top_up(self, plan: Plan) -> None:
        """Give calls to every actor that has reported, as far as the plan allows."""
        busy = set(self._waiting.values())
        overdue, now = self._num_overdue(), time.monotonic()
        for n, actor in self._actors.items():
            if n in busy:
                continue
            call_ids = plan.take(self._room - len(self._held[n]), overdue)
            self._held[n].update(dict.fromkeys(call_ids, now))
            if self._held[n]:
                work = [(self._requests[example_id], attempt) for example_id, attempt in call_ids]
                self._waiting[actor.exchange.remote(work)] = n

    def _num_overdue(self) -> int:
        """Number of calls that take far longer than the mean."""
        if not self._num_outcomes:
            return 0
        latest_s = time.monotonic() - _OVERDUE * self._held_s / self._num_outcomes
        return sum(since_s < latest_s for held in self._held.values() for since_s in held.values())

    def collect(self, plan: Plan) -> list[CallOutcome]:
        """Wait for outcomes and report them to the plan.

        Raises:
            EngineError: If no call can succeed, or actors die again and again.
        """
        import ray

        if not self._waiting:
            return []
        ready, _ = ray.wait(list(self._waiting), num_returns=1)
        outcomes: list[CallOutcome] = []
        for ref in ready:
            n = self._waiting.pop(ref)
            try:
                found = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                found = self._replace(n, plan, error)
            except ray.exceptions.RayTaskError as error:
                raise _unwrap(error, self._settings.journal) from error
            else:
                self._forget(n, found)
            outcomes += found
        for outcome in outcomes:
            plan.report(outcome.call_id, outcome.status, outcome.spending)
        return outcomes

    def _forget(self, n: int, outcomes: Sequence[CallOutcome]) -> None:
        now = time.monotonic()
        for outcome in outcomes:
            self._held_s += now - self._held[n].pop(outcome.call_id)
        self._num_outcomes += len(outcomes)

    def stop(self, grace_s: float) -> int:
        """End all living actors, see ``TeacherActor.stop``; the number of calls given up."""
        import ray

        given_up = 0
        for ref in [actor.stop.remote(grace_s) for actor in self._actors.values()]:
            with contextlib.suppress(ray.exceptions.RayActorError):
                given_up += ray.get(ref)
        return given_up

    def kill(self) -> None:
        """End all actors at once."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor)

    def _replace(self, n: int, plan: Plan, error: Exception) -> list[CallOutcome]:
        """Replace a lost actor: its journaled completions count, its other calls are repeated."""
        import ray

        ray.kill(self._actors.pop(n))  # it may live although its outcomes were lost
        is_dead = self._died_of_itself(self._nodes.pop(n), error)
        if is_dead and self._num_dead >= _MAX_DEAD_ACTORS:
            raise EngineError(
                f"synthesize: {_MAX_DEAD_ACTORS} actors died ({last_line(error)}); check "
                "their memory and run again; completions so far are kept"
            ) from error
        self._num_dead += is_dead
        held = set(self._held.pop(n))
        outcomes = self._find_journaled(held)
        for call_id in sorted(held - {outcome.call_id for outcome in outcomes}):
            plan.give_back(call_id)
        cause = "an actor died" if is_dead else "a machine was lost"
        logger.warning("%s; repeating %d of its calls", cause, len(held) - len(outcomes))
        self.add_actor()
        return outcomes

    def _died_of_itself(self, located: Any, error: Exception) -> bool:
        """Whether an actor's process died on a machine that lives, or before it ran."""
        import ray

        if not isinstance(error, ray.exceptions.ActorDiedError):
            return False
        try:
            node = ray.get(located)
        except ray.exceptions.RayError:
            return True
        return any(found["NodeID"] == node and found["Alive"] for found in ray.nodes())

    def _find_journaled(self, call_ids: set[CallId]) -> list[CallOutcome]:
        """Outcomes of calls whose completion is in the journal."""
        found: dict[CallId, CallOutcome] = {}
        for path in list_journal_files(self._settings.journal):
            for entry in filter(None, iter_entries(path)):
                call_id, request = entry.call_id, self._requests.get(entry.example_id)
                if call_id in call_ids and request and request.is_answered_by(entry):
                    status = status_of(request.judge(entry))
                    found[call_id] = CallOutcome(call_id, status, spending=spending_of(entry))
        return list(found.values())


def _resources(settings: ActorSettings) -> Mapping[str, object]:
    """Which resources an actor reserves, and where they have to be."""
    local = _local_models(settings)
    if local:
        return engine_resources(
            *(settings.inference, settings.num_actors, "synthesis.num_actors"),
            locate_model(local[0]),
        )
    return {"num_cpus": 0}  # actors mostly wait, so any number of them can start


def _place(settings: ActorSettings, number: int) -> Mapping[str, object]:
    """Where an actor runs that reserves nothing: on the nodes with cores in turn.

    Ray's own spreading puts actors without resources on one node, often a head that has no cores so
    that nothing runs there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if _local_models(settings):
        return {}
    if settings.is_offline:  # that teacher listens on loopback
        here = ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if not nodes:
        return {"scheduling_strategy": "SPREAD"}
    node = nodes[number % len(nodes)]
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def _local_models(settings: ActorSettings) -> list[str]:
    return [e.model for e in settings.teacher.endpoints if e.engine == "vllm"]


def run_calls(plan: Plan, pool: ActorPool, num_actors: int) -> int:
    """Make the plan's calls; the number of calls given up once there were enough paths.

    Raises:
        EngineError: If the teacher refuses, can't be reached, or fails call after call.
    """
    for _ in range(num_actors):
        pool.add_actor()
    try:
        with Progress("synthesize", plan.num_queued, "answers") as progress:
            while not plan.is_finished:
                pool.top_up(plan)
                outcomes = pool.collect(plan)
                progress.advance(len(outcomes), f"{plan.num_valid:,} valid paths")
                _stop_on_failures(plan, outcomes)
        return pool.stop(grace_s=0)
    except (MsrRecError, SystemExit) as error:
        # Calls in flight are paid for, so wait a little for their completions.
        pool.stop(_GRACE_S if isinstance(error, MsrRecError) else _STOP_GRACE_S)
        raise
    finally:
        pool.kill()


def _stop_on_failures(plan: Plan, outcomes: Sequence[CallOutcome]) -> None:
    details = [outcome.detail for outcome in outcomes if outcome.status is None]
    nothing_came = plan.is_finished and plan.num_answers == 0
    if details and (plan.failed_in_a_row >= _MAX_FAILED_IN_A_ROW or nothing_came):
        raise EngineError(
            f"teacher: {plan.failed_in_a_row} calls in a row failed (the last: {details[-1]}); "
            "fix the cause and run again; completions so far are kept"
        )


def _unwrap(error: Any, journal: str) -> Exception:
    """The error that an actor raised, without the remote traceback."""
    cause = error.cause
    if isinstance(cause, MsrRecError):
        return cause
    if isinstance(cause, OSError):
        return DataError(f"{journal}: can't be written ({cause}); free space there and run again")
    return error if isinstance(error, Exception) else RuntimeError(str(error))
