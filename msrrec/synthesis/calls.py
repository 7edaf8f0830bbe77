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

from msrrec.config import TeacherConfig
from msrrec.engines.openai import CallFailed, TeacherClient
from msrrec.errors import DataError, EngineError
from msrrec.log import Progress
from msrrec.synthesis.journal import JournalWriter, Record, Sampling, iter_records, list_journal
from msrrec.synthesis.plan import Ask, Plan
from msrrec.synthesis.pruning import judge

logger = logging.getLogger(__name__)

_MAX_FAILED_IN_A_ROW = 20
_MAX_LOST_ACTORS = 5
_GRACE_S = 5.0
_NOT_STARTED_SHARE = 8
"""An actor holds one waiting call for so many in flight, to fill a free slot without asking."""


@dataclass(frozen=True)
class Question:
    """One example as the teacher sees it, and what pruning needs beside.

    Attributes:
        candidates: Titles in the frozen order.
        target: 0-based index of what the user did buy; never part of the prompt.
    """

    example_id: str
    prompt: str
    prompt_hash: str
    candidates: tuple[str, ...]
    target: int


@dataclass(frozen=True)
class Outcome:
    """What became of one call: whether its answer is valid, or why there is none."""

    ask: Ask
    is_valid: bool | None
    detail: str = ""


class Caller:
    """A Ray actor: many calls in flight, each answer journaled before it is judged."""

    def __init__(
        self, teacher: TeacherConfig, api_key: str | None, journal: str, *, sends_seed: bool
    ) -> None:
        self._client = TeacherClient(teacher, api_key)
        self._sampling = Sampling(teacher.model, teacher.temperature, teacher.max_tokens)
        self._journal = JournalWriter(journal)
        self._sends_seed = sends_seed
        self._slots = asyncio.Semaphore(teacher.concurrency)
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._queued: set[asyncio.Task[Outcome]] = set()
        self._calling: set[asyncio.Task[Outcome]] = set()

    async def exchange(self, asks: Sequence[tuple[Question, int]]) -> list[Outcome]:
        """Start calls, wait for any, and give back what has become of those that ended.

        Raises:
            EngineError: If no call can succeed.
            OSError: If the journal can't be written.
        """
        for question, attempt in asks:
            task = asyncio.create_task(self._call(question, attempt))
            self._tasks.add(task)
            self._queued.add(task)
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
        for task in self._queued:
            task.cancel()
        if self._tasks and grace_s:
            await asyncio.wait(self._tasks, timeout=grace_s)
        given_up = len(self._calling)
        for task in self._calling:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()
        return given_up

    async def _call(self, question: Question, attempt: int) -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        ask = (question.example_id, attempt)
        try:
            async with self._slots:
                self._queued.discard(task)
                self._calling.add(task)
                seed = attempt if self._sends_seed else None
                answer = await self._client.ask(question.prompt, seed)
        except CallFailed as error:
            return Outcome(ask, None, str(error))
        finally:
            self._queued.discard(task)
            self._calling.discard(task)
        record = Record(
            example_id=question.example_id,
            attempt=attempt,
            prompt_hash=question.prompt_hash,
            sampling=self._sampling,
            answered_at_s=round(time.time(), 3),
            **vars(answer),
        )
        await self._journal.append(record)
        verdict = judge(record, question.candidates, question.target)
        return Outcome(ask, verdict.ruling == "kept")


class Crew:
    """The actors of one run, and the calls that each of them holds."""

    def __init__(
        self,
        questions: dict[str, Question],
        teacher: TeacherConfig,
        api_key: str | None,
        journal: str,
        *,
        is_offline: bool,
    ) -> None:
        import ray

        # Calls wait, they don't compute: no core is reserved, so any number of actors can start.
        # The offline teacher listens on loopback, so its callers stay on this machine.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._actor_class = ray.remote(Caller).options(
            num_cpus=0, scheduling_strategy=here if is_offline else "SPREAD"
        )
        self._arguments = (teacher, api_key, journal)
        self._sends_seed = is_offline
        self._questions, self._journal = questions, journal
        self._room = teacher.concurrency + max(1, teacher.concurrency // _NOT_STARTED_SHARE)
        self._actors: dict[int, Any] = {}
        self._held: dict[int, set[Ask]] = {}
        self._waiting: dict[Any, int] = {}
        self._num_hired = 0

    def hire(self) -> None:
        """Start one more actor."""
        n = self._num_hired
        self._num_hired += 1
        self._actors[n] = self._actor_class.remote(*self._arguments, sends_seed=self._sends_seed)
        self._held[n] = set()

    def top_up(self, plan: Plan) -> None:
        """Give every actor that is not being waited for what the plan allows."""
        busy = set(self._waiting.values())
        for n, actor in self._actors.items():
            if n in busy:
                continue
            asks = plan.take(self._room - len(self._held[n]))
            self._held[n].update(asks)
            if self._held[n]:
                work = [(self._questions[example_id], attempt) for example_id, attempt in asks]
                self._waiting[actor.exchange.remote(work)] = n

    def collect(self, plan: Plan) -> list[Outcome]:
        """Wait for outcomes and report them to the plan.

        Raises:
            EngineError: If no call can succeed, or actors die again and again.
        """
        import ray

        ready, _ = ray.wait(list(self._waiting), num_returns=1)
        outcomes: list[Outcome] = []
        for ref in ready:
            n = self._waiting.pop(ref)
            try:
                found = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                found = self._replace(n, plan, error)
            except ray.exceptions.RayTaskError as error:
                raise _unwrap(error, self._journal) from error
            else:
                self._held[n] -= {outcome.ask for outcome in found}
            outcomes += found
        for outcome in outcomes:
            plan.report(outcome.ask, outcome.is_valid)
        return outcomes

    def dismiss(self, grace_s: float) -> int:
        """End all actors that live, see ``Caller.stop``; the number of calls given up."""
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
        if self._num_hired - len(self._actors) >= _MAX_LOST_ACTORS:
            raise EngineError(
                f"synthesize: {_MAX_LOST_ACTORS} actors died ({str(error).splitlines()[0]}); check "
                "their memory, then run again, answers so far are kept"
            ) from error
        held = self._held.pop(n)
        del self._actors[n]
        outcomes = self._written(held)
        for ask in sorted(held - {outcome.ask for outcome in outcomes}):
            plan.give_back(ask)
        logger.warning("an actor died; %d of its calls are made again", len(held) - len(outcomes))
        self.hire()
        return outcomes

    def _written(self, asks: set[Ask]) -> list[Outcome]:
        """Outcomes of calls whose answer the journal holds."""
        found: dict[Ask, Outcome] = {}
        for path in list_journal(self._journal):
            for record in iter_records(path):
                ask = (record.example_id, record.attempt) if record else None
                question = self._questions[ask[0]] if ask in asks and ask else None
                if record and question and record.prompt_hash == question.prompt_hash:
                    verdict = judge(record, question.candidates, question.target)
                    assert ask is not None
                    found[ask] = Outcome(ask, verdict.ruling == "kept")
        return list(found.values())


def ask_all(plan: Plan, crew: Crew, num_actors: int) -> int:
    """Make the plan's calls; the number of calls given up when there were enough paths.

    Raises:
        EngineError: If the teacher refuses, can't be reached, or fails call after call.
    """
    for _ in range(num_actors):
        crew.hire()
    try:
        with Progress("synthesize", plan.num_queued, "answers") as progress:
            while not plan.is_finished:
                crew.top_up(plan)
                outcomes = crew.collect(plan)
                progress.advance(len(outcomes), f"{plan.num_valid:,} valid paths")
                _stop_on_failures(plan, outcomes)
        return crew.dismiss(grace_s=0)
    except (EngineError, DataError):
        crew.dismiss(_GRACE_S)  # what is in flight may still be answered, and is paid for
        raise
    finally:
        crew.kill()


def _stop_on_failures(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    details = [outcome.detail for outcome in outcomes if outcome.is_valid is None]
    nothing_came = plan.is_finished and plan.num_answers == 0
    if details and (plan.failed_in_a_row >= _MAX_FAILED_IN_A_ROW or nothing_came):
        raise EngineError(
            f"teacher: {plan.failed_in_a_row} calls in a row failed (the last: {details[-1]}); "
            "mend the cause and run again, answers so far are kept"
        )


def _unwrap(error: Any, journal: str) -> Exception:
    """What an actor raised, without the remote traceback."""
    cause = error.cause
    if isinstance(cause, EngineError):
        return cause
    if isinstance(cause, OSError):
        return DataError(f"{journal}: can't be written ({cause}); free space there and run again")
    return error if isinstance(error, Exception) else RuntimeError(str(error))
