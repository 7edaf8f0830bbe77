"""The engine deployment: one vLLM engine a replica, replaced as a whole when it dies."""

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from msrrec.config import InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from msrrec.log import setup
from msrrec.models import ModelSource

logger = logging.getLogger(__name__)

_CHUNK_S = 0.04
"""Tokens of one side are sent on together this often; each message between processes costs about a
millisecond of each core."""


class AsyncEngine(Protocol):
    """What an engine deployment runs: ``AsyncVllmEngine``, or a stand-in for it."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Pieces with finish reason ``""``, then the whole output with its own."""
        ...

    async def check_health(self) -> None:
        """Raise EngineError when the engine is dead."""
        ...


def load_vllm(source: ModelSource, config: InferenceConfig) -> AsyncEngine:
    """The engine that serves."""
    from msrrec.engines.vllm import AsyncVllmEngine  # seconds to import

    return AsyncVllmEngine(source, config)


class EngineReplica:
    """One engine behind a Serve handle.

    Serve never retries a request in flight, and a replica whose engine died would go on failing all
    it is given. So such a replica ends its own process: Serve starts another one, and the ingress
    asks again.
    """

    def __init__(self, load: Callable[[], AsyncEngine]) -> None:
        setup()
        self._engine = load()

    async def generate(self, request: GenerationRequest) -> Generation:
        """The whole output of one request, in one message."""
        async for generation in self._guarded(request):
            if generation.finish_reason:
                return generation
        raise EngineError("the engine ended a request without an output")

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Pieces as they are sampled, several tokens each, then the whole output."""
        ids: list[int] = []
        logprobs: list[float] = []
        sent = 0.0
        async for generation in self._guarded(request):
            if generation.finish_reason:
                yield generation
                return
            ids += generation.token_ids
            logprobs += generation.token_logprobs
            if time.monotonic() - sent >= _CHUNK_S:
                yield Generation(tuple(ids), tuple(logprobs), "")
                ids, logprobs, sent = [], [], time.monotonic()

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        try:
            await self._engine.check_health()
        except EngineError as error:
            _end_process(error)

    async def _guarded(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        try:
            async for generation in self._engine.stream(request):
                yield generation
        except EngineError:
            await self.check_health()  # does not return when the engine is dead
            raise


def _end_process(error: EngineError) -> None:
    logger.error("%s; ending this replica so that Serve replaces it", error)
    os._exit(1)  # an ordinary exit would wait for requests that can't end any more
