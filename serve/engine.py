"""The engine deployment: one vLLM engine per replica; a replica with a dead engine is replaced."""

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from msrrec.config import InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.lora import Adapters
from msrrec.errors import EngineError
from msrrec.log import REQUEST_ID, setup
from msrrec.models import ModelSource
from serve.tasks import gather, merge

logger = logging.getLogger(f"msrrec.{__name__}")

_CHUNK_S = 0.1
"""Seconds between messages with new tokens; each message between processes costs about 1 ms of each
core."""


class AsyncEngine(Protocol):
    """The engine of a deployment: ``AsyncVllmEngine``, or a stand-in in tests."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """The whole output."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Pieces with finish reason ``""``, then the whole output with its finish reason."""
        ...

    async def check_health(self) -> None:
        """Raise EngineError if the engine is dead."""
        ...


def load_vllm(
    source: ModelSource,
    config: InferenceConfig,
    adapters: Adapters | None = None,
    *,
    reports: bool = False,
) -> AsyncEngine:
    """The vLLM engine of a deployment; ``reports`` sends its metrics to Ray's."""
    from msrrec.engines.vllm import AsyncVllmEngine  # seconds to import

    return AsyncVllmEngine(source, config, adapters, reports=reports)


class EngineReplica:
    """One engine behind a Serve handle.

    Serve never retries a request in flight, and a replica with a dead engine would keep failing. So
    such a replica ends its own process: Serve starts another one, and the ingress tries again.
    """

    def __init__(self, load: Callable[[], AsyncEngine], *, as_json: bool = False) -> None:
        """Start the engine.

        Args:
            load: Starts it.
            as_json: Whether log lines are JSON, and each output gets one.
        """
        setup(as_json=as_json)
        self._logs_outputs = as_json
        self._engine = load()

    async def generate(
        self, requests: Sequence[GenerationRequest], request_id: str = ""
    ) -> list[Generation]:
        """The whole outputs of some requests, in one message; log lines carry the id."""
        REQUEST_ID.set(request_id)
        async with self._guarded():
            return await gather(map(self._generate, requests))

    async def _generate(self, request: GenerationRequest) -> Generation:
        began = time.monotonic()
        output = await self._engine.generate(request)
        self._log(request, output, began)
        return output

    async def stream(
        self, requests: Sequence[GenerationRequest], request_id: str = ""
    ) -> AsyncIterator[list[tuple[int, Generation]]]:
        """Messages with all news of some requests: the number of each in ``requests``, and a piece.

        A piece has several tokens and the finish reason ``""``; the last one is the whole output.
        """
        REQUEST_ID.set(request_id)
        news: dict[int, Generation] = {}
        began, sent = time.monotonic(), 0.0
        async with (
            self._guarded(),
            contextlib.aclosing(merge(map(self._engine.stream, requests))) as merged,
        ):
            async for pieces in merged:
                is_due = time.monotonic() - sent >= _CHUNK_S
                for number, piece in pieces:
                    if piece.finish_reason:
                        self._log(requests[number], piece, began)
                        news[number], is_due = piece, True
                    else:
                        news[number] = _joined(news.get(number), piece)
                if is_due:
                    yield list(news.items())
                    news, sent = {}, time.monotonic()

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        try:
            await self._engine.check_health()
        except EngineError as error:
            _end_process(error)

    @contextlib.asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """End this process if the engine dies within the block."""
        try:
            yield
        except EngineError:
            await self.check_health()  # does not return when the engine is dead
            raise

    def _log(self, request: GenerationRequest, output: Generation, began: float) -> None:
        if self._logs_outputs:
            _log_output(request, output, time.monotonic() - began)


def _joined(before: Generation | None, piece: Generation) -> Generation:
    """Two pieces of an output in one."""
    if before is None:
        return piece
    ids = before.token_ids + piece.token_ids
    return Generation(ids, before.token_logprobs + piece.token_logprobs, "")


def _log_output(request: GenerationRequest, output: Generation, seconds: float) -> None:
    fields = {
        "prompt_tokens": len(request.prompt_ids),
        "new_tokens": len(output.token_ids),
        "finish_reason": output.finish_reason,
        "ms": round(seconds * 1000, 1),
    }
    logger.info("output", extra={"fields": fields})


def _end_process(error: EngineError) -> None:
    logger.error("%s; ending this replica so that Serve replaces it", error)
    os._exit(1)  # a normal exit would wait for requests that can never finish
