"""Several teachers behind one interface: shares by weight, retries, throttling and fall-back.

Each try goes to a teacher with room. If it fails, the call is tried again, at another teacher if
there is one. A call ends with a completion, or once no teacher can answer it.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from msrrec import storage
from msrrec.chat.completions import Completion, Usage, estimate_tokens
from msrrec.chat.failures import CallFailed, TryAgain
from msrrec.config import EndpointConfig
from msrrec.embedded.offline_teacher import MODEL_NAMES
from msrrec.errors import EngineError
from msrrec.prices import token_cost
from msrrec.synthesis.journal import Sampling, sampling_of
from msrrec.synthesis.rate_limiter import RateLimiter

logger = logging.getLogger(__name__)

FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0
"""Bounds of the wait before another try where no other teacher is left, in seconds."""
_MAX_THROTTLED = 30
"""How often one call may be delayed by 429 before it is given up."""
_TRIES_BEFORE_FIRST_ANSWER = 3
"""Tries before an address that refuses connections counts as wrong, if nothing was answered yet."""


class Client(Protocol):
    """Makes one try of one call: to an API, or to a model in this process."""

    async def complete(self, prompt: str, attempt: int) -> Completion:
        """The completion; raises EngineError, TryAgain or CallFailed, see ``TeacherClient``."""
        ...

    async def close(self) -> None:
        """Release connections and processes."""
        ...


@dataclass(eq=False)
class Teacher:
    """One teacher: its settings, its client and its limits.

    Attributes:
        begun: Number of calls begun, which measures its share.
        mean_tokens: Mean tokens of prompt and completion over the calls answered so far; None
            before the first completion.
    """

    endpoint: EndpointConfig
    client: Client
    limiter: RateLimiter
    begun: int = 0
    num_answers: int = 0
    mean_tokens: float | None = None

    @property
    def name(self) -> str:
        """Its model and address, without any password in the address."""
        return teacher_name(self.endpoint)

    @property
    def sampling(self) -> Sampling:
        """Its settings that decide a completion."""
        return sampling_of(self.endpoint)

    async def complete(self, prompt: str, attempt: int) -> Completion:
        """One try, within the limits; raises what its client raises."""
        booked = self.mean_tokens or estimate_tokens(prompt) + self.endpoint.max_tokens
        tokens = 0.0
        self.begun += 1
        began_s = await self.limiter.acquire(booked)
        try:
            answer = await self.client.complete(prompt, attempt)
            tokens = count_tokens(answer.usage)
        except TryAgain as error:
            wait_s = min(error.wait_s, _LONGEST_DELAY_S)
            if error.is_overloaded and self.limiter.on_overload(began_s, wait_s):
                logger.info("%s throttles: %d calls in flight", self.name, self.limiter.limit)
            raise
        finally:
            self.limiter.release()
            self.limiter.settle(booked, tokens)
        self.limiter.on_answer()
        self.num_answers += 1
        mean = self.mean_tokens or 0.0
        self.mean_tokens = mean + (tokens - mean) / self.num_answers
        return answer


def count_tokens(usage: Usage) -> int:
    """Tokens of prompt and completion together."""
    return int(usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0))


def teacher_name(endpoint: EndpointConfig) -> str:
    """A teacher's model and address, without any password in the address."""
    if endpoint.model in MODEL_NAMES:
        return endpoint.model
    if endpoint.engine == "vllm":
        return f"{storage.shown(endpoint.model)} on vllm"
    parts = urlsplit(endpoint.base_url or "")
    return f"{endpoint.model} at {parts.netloc.rpartition('@')[2]}{parts.path}"


def cost_of(endpoint: EndpointConfig, usage: Usage) -> float | None:
    """The cost of a completion: reported by the API, else by the prices; None without either."""
    cost = usage.get("cost")
    if isinstance(cost, int | float) and not isinstance(cost, bool):
        return float(cost)
    return token_cost(
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        endpoint.prompt_price,
        endpoint.completion_price,
    )


@dataclass
class _Call:
    """The tries of one call so far."""

    tries: int = 0
    retries: int = 0
    throttled: int = 0
    avoided: list[Teacher] = field(default_factory=list)


class Teachers:
    """All teachers of one actor.

    Attributes:
        members: Those it began with, in order, lost ones included.
    """

    def __init__(self, teachers: Sequence[Teacher], max_retries: int) -> None:
        self._alive, self.members = list(teachers), list(teachers)
        self._lost: EngineError | None = None
        self._max_retries = max_retries
        self._room = asyncio.Condition()

    async def complete(self, prompt: str, attempt: int) -> tuple[Teacher, Completion, int]:
        """The teacher that answered, its completion, and the number of tries.

        Raises:
            EngineError: If no teacher is left at which any call can succeed.
            CallFailed: If this call got no completion.
        """
        call = _Call()
        while True:
            teacher = await self._pick(call)
            call.tries += 1
            delay_s = 0.0
            try:
                return teacher, await teacher.complete(prompt, attempt), call.tries
            except EngineError as error:
                self._lose(teacher, error)
            except CallFailed:
                call.avoided.append(teacher)
                if not self._has_other(call):
                    raise
            except TryAgain as error:
                call.avoided.append(teacher)
                self._check(teacher, call, error)
                delay_s = 0.0 if self._has_other(call) else _delay_s(call.tries)
            finally:
                await self._signal()
            if delay_s:
                await asyncio.sleep(delay_s)

    @property
    def in_flight(self) -> int:
        """Number of calls begun and not ended."""
        return sum(teacher.limiter.in_flight for teacher in self.members)

    async def stop(self) -> None:
        """Begin no more calls; those waiting to begin fail."""
        self._alive = []
        self._lost = self._lost or EngineError("the run ends")
        await self._signal()

    async def close(self) -> None:
        """Give all connections back."""
        for teacher in self.members:
            await teacher.client.close()

    async def _pick(self, call: _Call) -> Teacher:
        """The teacher with room furthest below its share, preferably one that did not fail."""
        async with self._room:
            while not (free := [t for t in self._alive if t.limiter.has_room]):
                if self._lost is not None:
                    raise self._lost
                await self._room.wait()
        return min(
            free,
            key=lambda t: (call.avoided.count(t), t.limiter.is_paused, t.begun / t.endpoint.weight),
        )

    async def _signal(self) -> None:
        """Wake calls that wait for room: one for the freed place, one if the limit was raised."""
        async with self._room:
            if self._lost is None:
                self._room.notify(2)
            else:
                self._room.notify_all()

    def _has_other(self, call: _Call) -> bool:
        """Whether there is a teacher that has not failed at this call."""
        return any(teacher not in call.avoided for teacher in self._alive)

    def _check(self, teacher: Teacher, call: _Call, error: TryAgain) -> None:
        """Count a failed try; raise if another try is useless."""
        if error.is_throttled:
            call.throttled += 1
        else:
            call.retries += 1
        if error.is_refused and teacher.num_answers == 0:
            is_slow = isinstance(error.__cause__, TimeoutError)
            enough = 1 if is_slow else min(_TRIES_BEFORE_FIRST_ANSWER, self._max_retries + 1)
            if call.retries >= enough:
                unreachable = EngineError(
                    f"teacher.base_url={teacher.endpoint.base_url}: no server answers there "
                    f"({error}); check the address, and that the server is running"
                )
                self._lose(teacher, unreachable)
                return
        if call.retries > self._max_retries or call.throttled > _MAX_THROTTLED:
            raise CallFailed(f"no completion after {call.tries} tries: {error}") from error

    def _lose(self, teacher: Teacher, error: EngineError) -> None:
        """Continue without a teacher at which no call can succeed; raise if it was the last."""
        if teacher in self._alive:
            self._alive.remove(teacher)
            if self._alive:
                logger.warning("%s; continuing with the other teachers", error)
        if not self._alive:
            self._lost = error
            raise error


def _delay_s(tries: int) -> float:
    """Seconds of exponential backoff with jitter; the limiter handles the teacher's Retry-After."""
    delay_s = min(_LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries - 1, 10))
    return float(delay_s * random.uniform(0.5, 1.0))
