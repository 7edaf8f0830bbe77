"""vLLM for batches (``VllmEngine``) and online (``AsyncVllmEngine``), with the same options.

vLLM reads its settings from the environment when it is imported. So it is imported only in the
constructors, after ``ENVIRONMENT`` has set what the user left unset.
"""

import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence, Set
from contextlib import aclosing, contextmanager
from dataclasses import asdict, replace
from typing import Any

from msrrec.config import InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.lora import Adapters, Loras, adapter_rank, fetch_adapters
from msrrec.engines.stepping import Asked, EngineThread
from msrrec.errors import ConfigError, EngineError, first_line
from msrrec.loading import check_end_token, load_config, load_tokenizer
from msrrec.log import REQUEST_ID
from msrrec.models import ModelSource, fetch_source
from msrrec.processor import fast_dtype, warn_if_imitated

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # an engine in our own process starts in half the time
    "OMP_NUM_THREADS": "1",  # without it the in-process engine on CPUs slows down by 2 to 10 times
    "VLLM_NO_USAGE_STATS": "1",  # no usage statistics are sent
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings concern settings that are intended here
}

MAX_MODEL_LEN = 4096
"""Maximum tokens of prompt and output together, if the settings do not say."""

CPU_MAX_NUM_SEQS = 128
CPU_MAX_BATCHED_TOKENS = 4096
GIB = 1 << 30
CPU_LONGEST_SEQS = 4
"""Longest sequences that the KV cache on CPUs always has room for, however large the model is."""

CPU_BLOCK_SIZE = 32
"""Tokens per block of the prefix cache; with vLLM's 128 on CPUs most shared prefixes are missed."""

_ANSWER_PROCESSOR = "msrrec.engines.answer_processor:AnswerProcessor"
ANSWERS = "msrrec_answers"
"""The key of ``SamplingParams.extra_args`` that carries an ``AnswerChoice`` to its processor."""

VllmOptions = dict[str, Any]
"""Options of vLLM under its own names, which users may add to."""


class VllmEngine:
    """vLLM for batches, in this process; several threads may ask it at once.

    Attributes:
        llm: vLLM's own object, for what this class leaves out, such as weights loaded anew.
    """

    def __init__(
        self, source: ModelSource, config: InferenceConfig, adapters: Adapters | None = None
    ) -> None:
        """Load the weights.

        Args:
            source: The weights.
            config: The section ``inference`` of the settings.
            adapters: What requests may name in place of the model's own adapter.

        Raises:
            EngineError: If vLLM is missing or refuses to start.
            ModelError: If the weights can't be read.
            ConfigError: If ``max_model_len`` or ``vllm_kwargs`` don't fit the model.
        """
        on_gpu = _import_vllm()
        from vllm import LLM

        self.model_name = source.name
        source, adapters = fetch_source(source), fetch_adapters(adapters)
        self.tokenizer, options = _prepare(source, config, on_gpu, adapters)
        self.max_model_len = int(options["max_model_len"])
        self._loras = Loras(source, adapters)
        with _starting(source):
            self._thread = EngineThread(lambda: LLM(**options))
        self.llm = self._thread.llm

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One output per request, in order; it does not depend on what else is asked.

        Raises:
            EngineError: If vLLM refuses a request or fails.
        """
        from vllm.exceptions import VLLMError

        try:
            outputs = self._thread.generate(
                [
                    Asked(one.prompt_ids, _sampling_params(one), self._loras.find(one))
                    for one in requests
                ]
            )
        except (RuntimeError, ValueError, VLLMError) as error:
            raise EngineError(f"{self.model_name}: vLLM failed ({first_line(error)})") from error
        return [
            _generation(output.outputs[0], request.next_ids)
            for request, output in zip(requests, outputs, strict=True)
        ]


class AsyncVllmEngine:
    """vLLM for single requests; the engine runs in a separate process."""

    def __init__(
        self,
        source: ModelSource,
        config: InferenceConfig,
        adapters: Adapters | None = None,
        *,
        reports: bool = False,
    ) -> None:
        """Load the weights; raises the same errors as ``VllmEngine``.

        Args:
            source: The weights.
            config: The section ``inference`` of the settings.
            adapters: As of ``VllmEngine``.
            reports: Whether vLLM's own metrics go to Ray's, which must run.
        """
        on_gpu = _import_vllm()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.model_name = source.name
        source, adapters = fetch_source(source), fetch_adapters(adapters)
        self.tokenizer, options = _prepare(source, config, on_gpu, adapters)
        self.max_model_len = int(options["max_model_len"])
        self._loras = Loras(source, adapters)
        with _starting(source):
            if reports:
                from msrrec.engines.engine_metrics import EngineMetrics

                loggers, options["disable_log_stats"] = [EngineMetrics], False
            else:
                loggers = None
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**options), stat_loggers=loggers)

    async def generate(self, request: GenerationRequest) -> Generation:
        """The whole output; cheaper than a stream, whose every token wakes this process's loop.

        Cancelling this call cancels the request.

        Raises:
            EngineError: If vLLM refuses the request, or the engine is dead.
        """
        async for output in self._outputs(request, as_deltas=False):
            last = output
        return _generation(last.outputs[0], request.next_ids)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Pieces of the output as they are sampled, then the whole output.

        A piece holds the tokens since the previous one, with the finish reason ``""``; the last
        item is the whole output with finish reason ``stop`` or ``length``. Leaving the loop early
        cancels the request.

        Raises:
            EngineError: If vLLM refuses the request, or the engine is dead.
        """
        ids: list[int] = []
        logprobs: list[float] = []
        scores: tuple[float, ...] = ()
        async with aclosing(self._outputs(request, as_deltas=True)) as outputs:
            async for output in outputs:
                piece = _generation(output.outputs[0], () if ids else request.next_ids)
                scores = scores or piece.next_logprobs
                ids += piece.token_ids
                logprobs += piece.token_logprobs
                if piece.token_ids:
                    yield Generation(piece.token_ids, piece.token_logprobs, "")
                if output.finished:
                    yield replace(
                        piece,
                        token_ids=tuple(ids),
                        token_logprobs=tuple(logprobs),
                        next_logprobs=scores,
                    )

    async def _outputs(
        self, request: GenerationRequest, *, as_deltas: bool
    ) -> AsyncGenerator[Any, None]:
        """VLLM's own outputs: those since the previous one, or a single one at the end."""
        from vllm.exceptions import VLLMError

        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        params = _sampling_params(request, as_deltas)
        request_id = f"{REQUEST_ID.get() or 'request'}-{uuid.uuid4().hex}"  # for vLLM's log
        lora = self._loras.find(request)
        try:
            found = self._llm.generate(prompt, params, request_id, lora_request=lora)
            async with aclosing(found) as outputs:
                async for output in outputs:
                    yield output
        except (VLLMError, ValueError) as error:
            raise EngineError(f"{self.model_name}: vLLM failed ({first_line(error)})") from error

    async def check_health(self) -> None:
        """Return if the engine is alive.

        Raises:
            EngineError: If the engine is dead. It can't recover, so its process should be replaced.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineError(f"{self.model_name}: the vLLM engine died") from error

    def shutdown(self) -> None:
        """End the engine's process."""
        self._llm.shutdown()


def engine_options(
    source: ModelSource,
    config: InferenceConfig,
    model_config: Any,
    on_gpu: bool,
    flags: Set[str] | None = None,
    adapters: Adapters | None = None,
) -> VllmOptions:
    """Options of vLLM for a model; ``config.vllm_kwargs`` overrides them.

    Every adapter has room on the device, so that requests for all of them share a batch.

    Args:
        source: The weights.
        config: The section ``inference`` of the settings.
        model_config: The transformers config of the weights.
        on_gpu: Whether vLLM runs on a GPU, where other options keep vLLM's defaults.
        flags: Names of the processor's instruction sets; None for this machine's.
        adapters: Further adapters, in local folders.

    Raises:
        ConfigError: If ``max_model_len`` exceeds what the model allows.
        ModelError: If the adapter's settings can't be read.
    """
    longest = int(getattr(model_config, "max_position_embeddings", MAX_MODEL_LEN))
    max_model_len = config.max_model_len or min(longest, MAX_MODEL_LEN)
    if max_model_len > longest:
        raise ConfigError(
            f"inference.max_model_len ({max_model_len}) exceeds the {longest} tokens that "
            f"{source.path} allows; use a smaller one"
        )
    options: VllmOptions = {
        "model": source.path,
        "revision": source.revision,
        "tokenizer_revision": source.revision,
        "max_model_len": max_model_len,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "dtype": "bfloat16" if on_gpu else fast_dtype(flags),
    }
    folders = [*([source.adapter] if source.adapter else []), *(adapters or {}).values()]
    if folders:
        rank = max(map(adapter_rank, folders))
        options |= {"enable_lora": True, "max_loras": len(folders), "max_lora_rank": rank}
        options["max_cpu_loras"] = len(folders)  # also where vllm_kwargs asks for fewer at once
    if not on_gpu:
        dtype = str(config.vllm_kwargs.get("dtype", options["dtype"]))
        warn_if_imitated(dtype, "inference.vllm_kwargs.dtype", flags)
        options |= _cpu_options(model_config, max_model_len, dtype)
    if config.kv_cache_gib is not None:
        options["kv_cache_memory_bytes"] = int(config.kv_cache_gib * GIB)
    options |= config.vllm_kwargs
    if config.binds_outputs:
        given = config.vllm_kwargs.get("logits_processors") or ()
        options["logits_processors"] = [*given, _ANSWER_PROCESSOR]
    return options


def _cpu_options(model_config: Any, max_model_len: int, dtype: str) -> VllmOptions:
    return {
        "enforce_eager": True,  # compiling takes 20 to 50 s per start and gains little here
        "enable_chunked_prefill": False,  # crashes with a seed: CPU generators can't rewind
        "block_size": CPU_BLOCK_SIZE,
        "max_num_seqs": CPU_MAX_NUM_SEQS,
        "max_num_batched_tokens": max(max_model_len, CPU_MAX_BATCHED_TOKENS),
        "kv_cache_memory_bytes": _kv_cache_bytes(model_config, max_model_len, dtype),
    }


def _kv_cache_bytes(model_config: Any, max_model_len: int, dtype: str) -> int:
    """Room for all sequences at full length; at most the larger of 1 GiB and 4 of them."""
    heads = int(model_config.num_attention_heads)
    kv_heads = int(getattr(model_config, "num_key_value_heads", None) or heads)
    head_dim = int(
        getattr(model_config, "head_dim", None) or int(model_config.hidden_size) // heads
    )
    value_bytes = 2 if dtype in ("bfloat16", "float16", "half") else 4
    token_bytes = 2 * int(model_config.num_hidden_layers) * kv_heads * head_dim * value_bytes
    one = token_bytes * (max_model_len + 2 * CPU_BLOCK_SIZE)  # vLLM reserves a block
    return min(CPU_MAX_NUM_SEQS * one, max(CPU_LONGEST_SEQS * one, GIB))


def _import_vllm() -> bool:
    """Import vLLM with our environment; whether it runs on a GPU."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform  # seconds to import
    except ImportError as error:
        raise EngineError(
            "vllm is not installed; install it with pip install 'msrrec[gpu]', or 'msrrec[cpu]' "
            "where there is no GPU"
        ) from error
    return not current_platform.is_cpu()


def _prepare(
    source: ModelSource, config: InferenceConfig, on_gpu: bool, adapters: Adapters
) -> tuple[Any, VllmOptions]:
    """The tokenizer of the weights, and vLLM's options for them."""
    model_config, tokenizer = load_config(source), load_tokenizer(source)
    if config.binds_outputs:
        check_end_token(tokenizer, source.path)
    text_config = model_config.get_text_config()
    return tokenizer, engine_options(source, config, text_config, on_gpu, adapters=adapters)


@contextmanager
def _starting(source: ModelSource) -> Iterator[None]:
    """Turn vLLM's start-up errors into this project's errors."""
    try:
        yield
    except TypeError as error:
        raise ConfigError(
            f"inference.vllm_kwargs: {first_line(error)}; expected names of vLLM's options"
        ) from error
    except (RuntimeError, ValueError, OSError, KeyError) as error:  # a KeyError names a tensor
        raise EngineError(f"{source.path}: vLLM can't load it ({first_line(error)})") from error


def _sampling_params(request: GenerationRequest, as_deltas: bool = False) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    choice = request.choice
    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=request.max_new_tokens,
        # Of the sampled token and of those asked for, before temperature and top-p.
        logprobs=len(request.next_ids),
        logprob_token_ids=list(request.next_ids) or None,
        flat_logprobs=True,  # else each token makes objects of its own
        detokenize=False,  # read_generation decodes the output once
        output_kind=RequestOutputKind.DELTA if as_deltas else RequestOutputKind.FINAL_ONLY,
        extra_args={ANSWERS: asdict(choice)} if choice else None,
    )


def _generation(output: Any, next_ids: Sequence[int] = ()) -> Generation:
    """A vLLM output without its end token, which is the last one if it stopped.

    ``next_ids`` are asked for at the output's first token.
    """
    ids, found = tuple(output.token_ids), output.logprobs  # vLLM's FlatLogprobs
    at_first = range(found.start_indices[0], found.end_indices[0]) if next_ids and ids else ()
    asked = {found.token_ids[i]: float(found.logprobs[i]) for i in at_first}
    scores = tuple(asked[token] for token in next_ids if ids)
    at = zip(ids, found.start_indices, strict=True)  # the sampled token leads its position
    logprobs = tuple(float(found.logprobs[i]) for _, i in at)
    if output.finish_reason == "stop":
        return Generation(ids[:-1], logprobs[:-1], "stop", logprobs[-1], scores)
    return Generation(ids, logprobs, output.finish_reason or "", None, scores)
