"""A teacher whose weights are loaded by the actor: vLLM with the interface of an API client.

Its engine is a process that a prompt may kill. Then a new engine starts, and each prompt that was
in flight is tried again with nothing beside it, so that only the prompt that kills is given up.
"""

import asyncio
import logging
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msrrec.chat.completions import Completion
from msrrec.chat.failures import CallFailed
from msrrec.config import EndpointConfig, InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from msrrec.models import locate_model
from msrrec.reasoning.encoding import encode_prompt
from msrrec.weights import check_source

if TYPE_CHECKING:
    from msrrec.engines.vllm import AsyncVllmEngine

logger = logging.getLogger(__name__)

_DEADLY = 2
"""Engines that a prompt must kill alone to be given up."""

_MAX_DEATHS = 4
"""Engines in a row that may die without a completion in between."""


class _EngineDied(Exception):
    """The engine died while it held a call."""


class _Turns:
    """Lets calls run beside each other, or one alone; they begin in the order in which they ask."""

    def __init__(self) -> None:
        self._door, self._is_empty = asyncio.Lock(), asyncio.Event()
        self._num_inside = 0
        self._is_empty.set()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        async with self._door:
            self._num_inside += 1
            self._is_empty.clear()
        try:
            yield
        finally:
            self._num_inside -= 1
            if not self._num_inside:
                self._is_empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:
            await self._is_empty.wait()
            yield


class LocalClient:
    """Calls to a model in this process; vLLM batches those in flight.

    The model is loaded by the first call, so that a loading error is an error of that call.
    """

    def __init__(
        self,
        endpoint: EndpointConfig,
        inference: InferenceConfig,
        *,
        use_chat_template: bool = True,
    ) -> None:
        self._endpoint, self._inference = endpoint, inference
        self._use_chat_template = use_chat_template
        self._engine: AsyncVllmEngine | None = None
        self._starting, self._turns = asyncio.Lock(), _Turns()
        self._num_deaths, self._has_answers = 0, False
        self._killed_by: Counter[str] = Counter()

    async def complete(self, prompt: str, attempt: int) -> Completion:
        """The completion of one prompt; the same attempt gives the same completion.

        Raises:
            EngineError: If the model can't start, or its engines die whatever they are asked.
            ModelError: If the weights can't be read.
            CallFailed: If the prompt is too long, or engines die of it.
        """
        is_suspect = False
        while True:
            try:
                async with self._turns.alone() if is_suspect else self._turns.beside_others():
                    self._refuse(prompt)
                    completion = await self._complete(prompt, attempt)
            except _EngineDied:
                self._killed_by[prompt] += is_suspect
                is_suspect = True
                if self._is_deadly(prompt):
                    self._num_deaths = 0
            else:
                self._num_deaths, self._has_answers = 0, True
                return completion

    def _refuse(self, prompt: str) -> None:
        """Raise where it makes no sense to ask an engine."""
        name = self._endpoint.model
        if self._is_deadly(prompt):
            raise CallFailed(f"{name}: vLLM's engine dies of the prompt")
        if self._num_deaths >= _MAX_DEATHS:
            raise EngineError(f"{name}: vLLM's engine died {_MAX_DEATHS} times in a row")

    def _is_deadly(self, prompt: str) -> bool:
        """Whether enough engines died of the prompt alone, and others were answered."""
        return self._has_answers and self._killed_by[prompt] >= _DEADLY

    async def _complete(self, prompt: str, attempt: int) -> Completion:
        engine = await self._start()
        ids = encode_prompt(
            engine.tokenizer, prompt, prefix="", use_chat_template=self._use_chat_template
        )
        request = GenerationRequest(
            prompt_ids=tuple(ids),
            seed=zlib.crc32(f"{attempt}\x1f{prompt}".encode("utf-8", "replace")) & 0x7FFFFFFF,
            max_new_tokens=min(self._endpoint.max_tokens, engine.max_model_len - len(ids)),
            temperature=self._endpoint.temperature,
        )
        if request.max_new_tokens < 1:
            raise CallFailed(f"the prompt has {len(ids)} tokens, so no room is left")
        begin = time.monotonic()
        generation = await self._generate(engine, request)
        written = engine.tokenizer.decode(list(generation.token_ids), skip_special_tokens=True)
        return Completion(
            text=str(written),
            reasoning_content=None,
            finish_reason=generation.finish_reason,
            usage={"prompt_tokens": len(ids), "completion_tokens": len(generation.token_ids)},
            served_model=engine.model_name,
            latency_s=round(time.monotonic() - begin, 4),
        )

    async def close(self) -> None:
        """End the engine's process."""
        if self._engine is not None:
            self._engine.shutdown()

    async def _start(self) -> "AsyncVllmEngine":
        async with self._starting:
            if self._engine is None:
                from msrrec.engines.vllm import AsyncVllmEngine  # seconds to import

                source = locate_model(self._endpoint.model)
                check_source(source)
                self._engine = AsyncVllmEngine(source, self._inference)
        return self._engine

    async def _generate(self, engine: "AsyncVllmEngine", request: GenerationRequest) -> Generation:
        try:
            return await engine.generate(request)
        except EngineError as error:
            try:
                await engine.check_health()
            except EngineError as death:
                self._bury(engine, death)
                raise _EngineDied(str(death)) from error
            raise CallFailed(str(error)) from error  # only this prompt failed

    def _bury(self, engine: "AsyncVllmEngine", death: EngineError) -> None:
        """Forget a dead engine, once for all calls that it held; the next call starts another."""
        if engine is self._engine:
            self._engine, self._num_deaths = None, self._num_deaths + 1
            engine.shutdown()
            logger.warning("%s; starting another", death)
