"""Several teachers as one: shares by weight, retries, back-pressure, and fall-back.

Each try goes to a teacher that has room; where it fails, the call is tried again, at another
teacher if there is one. Only a call with an answer, or one that no teacher can answer, ends.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from msrrec.chat.completions import Completion, Usage, estimate_tokens
from msrrec.chat.failures import CallFailed, TryAgain
from msrrec.config import EndpointConfig
from msrrec.embedded.offline_teacher import MODEL_NAME
from msrrec.errors import EngineError
from msrrec.prices import token_cost
from msrrec.synthesis.journal import Sampling, sampling_of
from msrrec.synthesis.rate_limiter import RateLimiter

logger = logging.getLogger(__name__)

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0
_MAX_THROTTLED = 30
"""Times that one call is put off by 429 before it is given up."""
_TRIES_BEFORE_FIRST_ANSWER = 3
"""Without any answer yet, an address that refuses connections is a wrong one: say so soon."""


class Client(Protocol):
    """What makes one try of one call: an API, or weights in this process."""

    async def complete(self, prompt: str, attempt: int) -> Completion:
        """The answer; raises EngineError, TryAgain or CallFailed, see ``TeacherClient``."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


@dataclass(eq=False)
class Teacher:
    """One teacher: its settings, its client and its limits.

    Attributes:
        begun: Calls begun, which its share is measured by.
        mean_tokens: Mean tokens of prompt and completion over the calls answered so far; None
            before the first.
    """

    endpoint: EndpointConfig
    client: Client
    limiter: RateLimiter
    begun: int = 0
    num_answers: int = 0
    mean_tokens: float | None = None

    @property
    def name(self) -> str:
        """Its model and address, without any password in that."""
        return teacher_name(self.endpoint)

    @property
    def sampling(self) -> Sampling:
        """What of it decides an answer."""
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
    """Tokens of prompt and answer together."""
    return int(usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0))


def teacher_name(endpoint: EndpointConfig) -> str:
    """A teacher's model and where it is, without any password in the address."""
    if endpoint.model == MODEL_NAME:
        return MODEL_NAME
    if endpoint.engine == "vllm":
        return f"{endpoint.model} on vllm"
    parts = urlsplit(endpoint.base_url or "")
    return f"{endpoint.model} at {parts.netloc.rpartition('@')[2]}{parts.path}"


def cost_of(endpoint: EndpointConfig, usage: Usage) -> float | None:
    """What an answer cost: as the API says, else by the price table; None without either."""
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
    """All teachers of one actor."""

    def __init__(self, teachers: Sequence[Teacher], max_retries: int) -> None:
        self._alive, self._all = list(teachers), list(teachers)
        self._lost: EngineError | None = None
        self._max_retries = max_retries
        self._room = asyncio.Condition()

    async def complete(self, prompt: str, attempt: int) -> tuple[Teacher, Completion, int]:
        """The answer of the teacher that gave one, and the number of tries.

        Raises:
            EngineError: If no teacher is left that any call can succeed with.
            CallFailed: If this call got no answer.
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
        """Calls begun and not ended."""
        return sum(teacher.limiter.in_flight for teacher in self._all)

    async def stop(self) -> None:
        """Begin no more calls; those that wait to begin fail."""
        self._alive = []
        self._lost = self._lost or EngineError("the run ends")
        await self._signal()

    async def close(self) -> None:
        """Give all connections back."""
        for teacher in self._all:
            await teacher.client.close()

    async def _pick(self, call: _Call) -> Teacher:
        """The teacher with room that is most behind its share, one that has not failed if any."""
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
        """Wake calls that wait for room: for the place left, and for one that a limit gained."""
        async with self._room:
            if self._lost is None:
                self._room.notify(2)
            else:
                self._room.notify_all()

    def _has_other(self, call: _Call) -> bool:
        """Whether a teacher is left that has not failed at this call."""
        return any(teacher not in call.avoided for teacher in self._alive)

    def _check(self, teacher: Teacher, call: _Call, error: TryAgain) -> None:
        """Count a failed try; raise where another is of no use."""
        if error.is_throttled:
            call.throttled += 1
        else:
            call.retries += 1
        if error.is_refused and teacher.num_answers == 0:
            is_slow = isinstance(error.__cause__, TimeoutError)
            enough = 1 if is_slow else min(_TRIES_BEFORE_FIRST_ANSWER, self._max_retries + 1)
            if call.retries >= enough:
                unreachable = EngineError(
                    f"teacher.base_url={teacher.endpoint.base_url}: nobody answers there "
                    f"({error}); check the address, and that the server is running"
                )
                self._lose(teacher, unreachable)
                return
        if call.retries > self._max_retries or call.throttled > _MAX_THROTTLED:
            raise CallFailed(f"no answer after {call.tries} tries: {error}") from error

    def _lose(self, teacher: Teacher, error: EngineError) -> None:
        """Go on without a teacher that no call can succeed with; raise where it was the last."""
        if teacher in self._alive:
            self._alive.remove(teacher)
            if self._alive:
                logger.warning("%s; going on with the other teachers", error)
        if not self._alive:
            self._lost = error
            raise error


def _delay_s(tries: int) -> float:
    """Exponential with jitter; what the teacher asks to wait is the limiter's."""
    delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(tries - 1, 10))
    return float(delay_s * random.uniform(0.5, 1.0))
