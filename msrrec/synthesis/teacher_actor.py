"""The Ray actor that calls the teachers and journals each completion before judging it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from msrrec.chat.failures import CallFailed
from msrrec.config import EndpointConfig, InferenceConfig, TeacherConfig
from msrrec.engines.openai import TeacherClient
from msrrec.hub import use_token
from msrrec.synthesis.journal import JournalEntry, JournalWriter
from msrrec.synthesis.local import LocalClient
from msrrec.synthesis.plan import CallId, CompletionStatus, Spending
from msrrec.synthesis.rate_limiter import RateLimiter
from msrrec.synthesis.requests import TeacherRequest
from msrrec.synthesis.teachers import Client, Teacher, Teachers, cost_of
from msrrec.synthesis.verdicts import spending_of, status_of


@dataclass(frozen=True)
class CallOutcome:
    """The result of one call: status and cost of its completion, or why there is none."""

    call_id: CallId
    status: CompletionStatus | None
    detail: str = ""
    spending: Spending | None = None


@dataclass(frozen=True)
class ActorSettings:
    """The settings of a teacher actor.

    Attributes:
        keys: The API key of each endpoint; None if it needs none.
        journal: The folder of the journal.
        run: Id of this run, which its completions are marked with.
        num_actors: Number of actors that share the rates.
        is_offline: Whether the teacher is the offline one, on loopback and with seeds.
        inference: Options of vLLM for local weights.
        use_chat_template: Whether local weights are asked within their chat template.
        hub_token: The hub's token, with which local weights may have to be downloaded.
    """

    teacher: TeacherConfig
    keys: tuple[str | None, ...] = field(repr=False)
    journal: str
    run: str
    num_actors: int
    is_offline: bool
    inference: InferenceConfig
    use_chat_template: bool = True
    hub_token: str | None = field(default=None, repr=False)


def build_teachers(settings: ActorSettings) -> Teachers:
    """The clients and limits of one actor, which gets its share of the rates."""
    teachers = []
    for endpoint, key in zip(settings.teacher.endpoints, settings.keys, strict=True):
        seconds = 60.0 * settings.num_actors
        rates = [
            per_minute / seconds if per_minute else None
            for per_minute in (endpoint.requests_per_minute, endpoint.tokens_per_minute)
        ]
        client = _build_client(endpoint, key, settings)
        teachers.append(
            Teacher(endpoint, client, RateLimiter(settings.teacher.concurrency, *rates))
        )
    return Teachers(teachers, settings.teacher.max_retries)


def _build_client(endpoint: EndpointConfig, key: str | None, settings: ActorSettings) -> Client:
    if endpoint.engine == "vllm":
        return LocalClient(
            endpoint, settings.inference, use_chat_template=settings.use_chat_template
        )
    return TeacherClient(endpoint, key, settings.teacher.timeout_s, sends_seed=settings.is_offline)


class TeacherActor:
    """A Ray actor with many calls in flight, which journals each completion before judging it."""

    def __init__(self, settings: ActorSettings) -> None:
        use_token(settings.hub_token)
        self._teachers = build_teachers(settings)
        self._journal = JournalWriter(settings.journal)
        self._settings = settings
        self._tasks: set[asyncio.Task[CallOutcome]] = set()
        self._writing: set[asyncio.Task[CallOutcome] | None] = set()

    async def locate(self) -> str:
        """The id of the node that this runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def exchange(self, call_ids: Sequence[tuple[TeacherRequest, int]]) -> list[CallOutcome]:
        """Start calls, wait for any to end, and return the outcomes of those that ended.

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
        """End the actor: completions that arrived are written, the other calls are given up.

        Args:
            grace_s: Seconds to wait for calls in flight.

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

    async def _call(self, request: TeacherRequest, attempt: int) -> CallOutcome:
        call_id = (request.example_id, attempt)
        try:
            teacher, answer, tries = await self._teachers.complete(request.prompt, attempt)
        except CallFailed as error:
            return CallOutcome(call_id, None, str(error))
        entry = JournalEntry(
            example_id=request.example_id,
            attempt=attempt,
            prompt_hash=request.prompt_hash,
            sampling=teacher.sampling,
            tries=tries,
            answered_at_s=round(time.time(), 3),
            teacher=teacher.name,
            cost=cost_of(teacher.endpoint, answer.usage),
            run=self._settings.run,
            **vars(answer),
        )
        self._writing.add(asyncio.current_task())
        await self._journal.append(entry)
        self._writing.discard(asyncio.current_task())
        judgement = request.judge(entry)
        return CallOutcome(call_id, status_of(judgement), spending=spending_of(entry))
