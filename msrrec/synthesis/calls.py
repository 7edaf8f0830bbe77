"""Making the calls: Ray actors that ask the teacher, and the loop that hands them work.

Each actor keeps its calls in flight in an event loop of its own; the driver only tops it up and
hears what was valid. Ray Data would do the same in fewer lines, but its blocks are barriers to
calls whose latencies differ widely, and its ``limit`` lets whole blocks run on after enough paths
exist; it takes over where the answers are judged (see ``synthesize``).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msrrec.config import EndpointConfig, InferenceConfig, TeacherConfig
from msrrec.engines.openai import CallFailed, TeacherClient
from msrrec.engines.vllm import engine_resources
from msrrec.errors import DataError, EngineError, MsrRecError, first_line
from msrrec.log import Progress
from msrrec.synthesis.journal import JournalEntry, JournalWriter, iter_entries, list_journal_files
from msrrec.synthesis.local import LocalClient
from msrrec.synthesis.plan import CallId, CompletionStatus, Plan, Spending
from msrrec.synthesis.pruning import Judgement, judge
from msrrec.synthesis.rate_limiter import RateLimiter
from msrrec.synthesis.teachers import Client, Teacher, Teachers, cost_of, count_tokens

logger = logging.getLogger(__name__)

_MAX_FAILED_IN_A_ROW = 20
_MAX_LOST_ACTORS = 5
_GRACE_S = 5.0
_NOT_STARTED_SHARE = 8
"""An actor holds one waiting call for so many in flight, to fill a free slot without asking."""
_OVERDUE = 3.0
"""A call that takes so many times the mean is not waited for near a threshold."""


@dataclass(frozen=True)
class TeacherRequest:
    """One example as the teacher sees it, and what pruning needs beside.

    Attributes:
        candidates: Titles in the frozen order.
        target: 0-based index of what the user did buy; never part of the prompt.
        history: Titles that the prompt shows beside them.
        later: Titles that the user bought in validation and test; in no prompt and no path.
    """

    example_id: str
    prompt: str
    prompt_hash: str
    candidates: tuple[str, ...]
    target: int
    history: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def judge(self, entry: JournalEntry) -> Judgement:
        """What becomes of an answer to it."""
        return judge(entry, self.candidates, self.target, self.history, self.later)


@dataclass(frozen=True)
class Outcome:
    """What became of one call: what its answer is and cost, or why there is none."""

    call_id: CallId
    status: CompletionStatus | None
    detail: str = ""
    spending: Spending | None = None


@dataclass(frozen=True)
class Assignment:
    """What an actor works with.

    Attributes:
        keys: The API key of each endpoint, None where it wants none.
        journal: The folder of the journal.
        run: What the answers of this run are marked with.
        num_actors: Actors that share the rates.
        is_offline: Whether the teacher is the offline one, on loopback and with seeds.
        inference: Options of vLLM for local weights.
    """

    teacher: TeacherConfig
    keys: tuple[str | None, ...]
    journal: str
    run: str
    num_actors: int
    is_offline: bool
    inference: InferenceConfig


def status_of(judgement: Judgement) -> CompletionStatus:
    """Whether a judgement makes a path, may be mended by another sample, or stands."""
    if judgement.verdict == "kept":
        return "valid"
    return "unreadable" if judgement.is_retryable else "settled"


def spending_of(entry: JournalEntry) -> Spending:
    """What a journaled answer cost."""
    return Spending(1, count_tokens(entry.usage), entry.cost or 0.0)


def build_teachers(work: Assignment) -> Teachers:
    """The clients and limits of one actor: each gets its share of the rates."""
    teachers = []
    for endpoint, key in zip(work.teacher.endpoints, work.keys, strict=True):
        seconds = 60.0 * work.num_actors
        rates = [
            per_minute / seconds if per_minute else None
            for per_minute in (endpoint.requests_per_minute, endpoint.tokens_per_minute)
        ]
        client = _build_client(endpoint, key, work)
        teachers.append(Teacher(endpoint, client, RateLimiter(work.teacher.concurrency, *rates)))
    return Teachers(teachers, work.teacher.max_retries)


def _build_client(endpoint: EndpointConfig, key: str | None, work: Assignment) -> Client:
    if endpoint.engine == "vllm":
        return LocalClient(endpoint, work.inference)
    return TeacherClient(endpoint, key, work.teacher.timeout_s, sends_seed=work.is_offline)


class TeacherActor:
    """A Ray actor: many calls in flight, each answer journaled before it is judged."""

    def __init__(self, work: Assignment) -> None:
        self._teachers = build_teachers(work)
        self._journal = JournalWriter(work.journal)
        self._work = work
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._writing: set[asyncio.Task[Outcome] | None] = set()

    async def exchange(self, call_ids: Sequence[tuple[TeacherRequest, int]]) -> list[Outcome]:
        """Start calls, wait for any, and give back what has become of those that ended.

        Raises:
            EngineError: If no call can succeed.
            OSError: If the journal can't be written.
        """
        for request, attempt in call_ids:
            self._tasks.add(asyncio.create_task(self._call(request, attempt)))
        if not self._tasks:
            return []
        done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in done]

    async def stop(self, grace_s: float) -> int:
        """End: what came is written, the rest is given up.

        Args:
            grace_s: How long to wait for calls in flight.

        Returns:
            The number of calls in flight that were given up.
        """
        await self._teachers.stop()
        if self._tasks and grace_s:
            await asyncio.wait(self._tasks, timeout=grace_s)
        given_up = self._teachers.in_flight
        for task in self._tasks - self._writing:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._teachers.close()
        return given_up

    async def _call(self, request: TeacherRequest, attempt: int) -> Outcome:
        call_id = (request.example_id, attempt)
        try:
            teacher, answer, tries = await self._teachers.complete(request.prompt, attempt)
        except CallFailed as error:
            return Outcome(call_id, None, str(error))
        entry = JournalEntry(
            example_id=request.example_id,
            attempt=attempt,
            prompt_hash=request.prompt_hash,
            sampling=teacher.sampling,
            tries=tries,
            answered_at_s=round(time.time(), 3),
            teacher=teacher.name,
            cost=cost_of(teacher.endpoint, answer.usage),
            run=self._work.run,
            **vars(answer),
        )
        self._writing.add(asyncio.current_task())
        await self._journal.append(entry)
        self._writing.discard(asyncio.current_task())
        judgement = request.judge(entry)
        return Outcome(call_id, status_of(judgement), spending=spending_of(entry))


class ActorPool:
    """The actors of one run, and the calls that each of them holds."""

    def __init__(self, requests: dict[str, TeacherRequest], work: Assignment) -> None:
        import ray

        self._actor_class = ray.remote(TeacherActor).options(**_actor_options(work))
        self._work, self._questions = work, requests
        concurrency = work.teacher.concurrency * len(work.teacher.endpoints)
        self._room = concurrency + max(1, concurrency // _NOT_STARTED_SHARE)
        self._actors: dict[int, Any] = {}
        self._held: dict[int, dict[CallId, float]] = {}
        self._waiting: dict[Any, int] = {}
        self._num_started = 0
        self._num_outcomes, self._held_s = 0, 0.0

    def add_actor(self) -> None:
        """Start one more actor."""
        n = self._num_started
        self._num_started += 1
        self._actors[n] = self._actor_class.remote(self._work)
        self._held[n] = {}

    def top_up(self, plan: Plan) -> None:
        """Give every actor that is not being waited for what the plan allows."""
        busy = set(self._waiting.values())
        overdue, now = self._num_overdue(), time.monotonic()
        for n, actor in self._actors.items():
            if n in busy:
                continue
            call_ids = plan.take(self._room - len(self._held[n]), overdue)
            self._held[n].update(dict.fromkeys(call_ids, now))
            if self._held[n]:
                work = [(self._questions[example_id], attempt) for example_id, attempt in call_ids]
                self._waiting[actor.exchange.remote(work)] = n

    def _num_overdue(self) -> int:
        """Calls held for so long that others have come and gone meanwhile."""
        if not self._num_outcomes:
            return 0
        latest_s = time.monotonic() - _OVERDUE * self._held_s / self._num_outcomes
        return sum(since_s < latest_s for held in self._held.values() for since_s in held.values())

    def collect(self, plan: Plan) -> list[Outcome]:
        """Wait for outcomes and report them to the plan.

        Raises:
            EngineError: If no call can succeed, or actors die again and again.
        """
        import ray

        if not self._waiting:
            return []
        ready, _ = ray.wait(list(self._waiting), num_returns=1)
        outcomes: list[Outcome] = []
        for ref in ready:
            n = self._waiting.pop(ref)
            try:
                found = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                found = self._replace(n, plan, error)
            except ray.exceptions.RayTaskError as error:
                raise _unwrap(error, self._work.journal) from error
            else:
                self._forget(n, found)
            outcomes += found
        for outcome in outcomes:
            plan.report(outcome.call_id, outcome.status, outcome.spending)
        return outcomes

    def _forget(self, n: int, outcomes: Sequence[Outcome]) -> None:
        now = time.monotonic()
        for outcome in outcomes:
            self._held_s += now - self._held[n].pop(outcome.call_id)
        self._num_outcomes += len(outcomes)

    def stop(self, grace_s: float) -> int:
        """End all actors that live, see ``TeacherActor.stop``; the number of calls given up."""
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

    def _replace(self, n: int, plan: Plan, error: Exception) -> list[Outcome]:
        """Another actor for a dead one: what it wrote counts, its other calls are made again."""
        if self._num_started - len(self._actors) >= _MAX_LOST_ACTORS:
            raise EngineError(
                f"synthesize: {_MAX_LOST_ACTORS} actors died ({first_line(error)}); check "
                "their memory, then run again, answers so far are kept"
            ) from error
        held = set(self._held.pop(n))
        del self._actors[n]
        outcomes = self._find_journaled(held)
        for call_id in sorted(held - {outcome.call_id for outcome in outcomes}):
            plan.give_back(call_id)
        logger.warning("an actor died; %d of its calls are made again", len(held) - len(outcomes))
        self.add_actor()
        return outcomes

    def _find_journaled(self, call_ids: set[CallId]) -> list[Outcome]:
        """Outcomes of calls whose answer the journal holds."""
        found: dict[CallId, Outcome] = {}
        for path in list_journal_files(self._work.journal):
            for entry in iter_entries(path):
                call_id = (entry.example_id, entry.attempt) if entry else None
                request = self._questions[call_id[0]] if call_id in call_ids and call_id else None
                if entry and request and entry.prompt_hash == request.prompt_hash:
                    judgement = request.judge(entry)
                    assert call_id is not None
                    found[call_id] = Outcome(
                        call_id, status_of(judgement), spending=spending_of(entry)
                    )
        return list(found.values())


def _actor_options(work: Assignment) -> dict[str, Any]:
    """Where an actor runs and what it reserves."""
    import ray

    if any(endpoint.engine == "vllm" for endpoint in work.teacher.endpoints):
        cluster = ray.cluster_resources()
        return engine_resources(work.inference, work.num_actors, "synthesis.num_actors", cluster)
    # Calls wait, they don't compute: no core is reserved, so any number of actors can start.
    # The offline teacher listens on loopback, so its callers stay on this machine.
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return {"num_cpus": 0, "scheduling_strategy": here if work.is_offline else "SPREAD"}


def ask_all(plan: Plan, pool: ActorPool, num_actors: int) -> int:
    """Make the plan's calls; the number of calls given up when there were enough paths.

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
    except MsrRecError:
        pool.stop(_GRACE_S)  # what is in flight may still be answered, and is paid for
        raise
    finally:
        pool.kill()


def _stop_on_failures(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    details = [outcome.detail for outcome in outcomes if outcome.status is None]
    nothing_came = plan.is_finished and plan.num_answers == 0
    if details and (plan.failed_in_a_row >= _MAX_FAILED_IN_A_ROW or nothing_came):
        raise EngineError(
            f"teacher: {plan.failed_in_a_row} calls in a row failed (the last: {details[-1]}); "
            "mend the cause and run again, answers so far are kept"
        )


def _unwrap(error: Any, journal: str) -> Exception:
    """What an actor raised, without the remote traceback."""
    cause = error.cause
    if isinstance(cause, MsrRecError):
        return cause
    if isinstance(cause, OSError):
        return DataError(f"{journal}: can't be written ({cause}); free space there and run again")
    return error if isinstance(error, Exception) else RuntimeError(str(error))
