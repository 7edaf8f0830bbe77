"""A teacher whose weights are loaded by the actor: vLLM with the interface of an API client."""

import asyncio
import time
import zlib
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
        self._starting = asyncio.Lock()

    async def complete(self, prompt: str, attempt: int) -> Completion:
        """The completion of one prompt; the same attempt gives the same completion.

        Raises:
            EngineError: If the model can't start, or its engine died.
            ModelError: If the weights can't be read.
            CallFailed: If the prompt is too long.
        """
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
            async for piece in engine.stream(request):
                last = piece
        except EngineError as error:
            await engine.check_health()  # raises if dead; else only this prompt failed
            raise CallFailed(str(error)) from error
        return last
