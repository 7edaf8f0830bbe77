"""The data type follows the processor, and the engine's cache follows the model."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from msrrec.config import InferenceConfig
from msrrec.engines.vllm import engine_options
from msrrec.processor import fast_dtype, processor_flags, processor_name, warn_if_imitated
from msrrec.training.model import weight_dtype
from tests.support.models import source_of

AVX2 = frozenset({"sse4_2", "avx2", "fma"})
SMOLLM2 = SimpleNamespace(
    max_position_embeddings=8192,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    hidden_size=576,
    head_dim=64,
)
LLAMA3_8B = SimpleNamespace(
    max_position_embeddings=8192,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    hidden_size=4096,
)
GIB = 1 << 30


def options(
    model: Any = SMOLLM2, flags: frozenset[str] = AVX2, *, on_gpu: bool = False, **inference: Any
) -> dict[str, Any]:
    return engine_options(source_of("m"), InferenceConfig(**inference), model, on_gpu, flags)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_auto_is_bfloat16_where_the_processor_has_instructions_for_it(flag: str) -> None:
    flags = AVX2 | {flag}
    assert fast_dtype(flags) == "bfloat16"
    assert weight_dtype("auto", on_gpu=False, flags=flags) is torch.bfloat16
    assert options(flags=flags)["dtype"] == "bfloat16"


def test_auto_is_float32_where_bfloat16_would_be_imitated() -> None:
    flags = AVX2 | {"avx512f", "avx512bw"}
    assert fast_dtype(flags) == "float32"
    assert weight_dtype("auto", on_gpu=False, flags=flags) is torch.float32
    assert options(flags=flags)["dtype"] == "float32"
    assert options(flags=flags, on_gpu=True)["dtype"] == "bfloat16"
    assert weight_dtype("auto", on_gpu=True, flags=flags) is torch.bfloat16


def test_a_type_that_is_asked_for_is_taken_on_any_processor() -> None:
    assert weight_dtype("bfloat16", on_gpu=False, flags=AVX2) is torch.bfloat16
    assert weight_dtype("float32", on_gpu=False, flags=AVX2 | {"amx_bf16"}) is torch.float32
    assert options(vllm_kwargs={"dtype": "bfloat16"})["dtype"] == "bfloat16"


def test_this_machines_flags_are_names_of_instruction_sets() -> None:
    assert all(flag and ":" not in flag for flag in processor_flags())


def test_imitated_bfloat16_is_one_line_of_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "msrrec.processor")
    warn_if_imitated("auto", "model.dtype", AVX2)
    warn_if_imitated("float32", "model.dtype", AVX2)
    warn_if_imitated("bfloat16", "model.dtype", AVX2 | {"avx512_bf16"})
    options()
    options(on_gpu=True)
    assert not caplog.records
    warn_if_imitated("bfloat16", "model.dtype", AVX2)
    options(vllm_kwargs={"dtype": "bfloat16"})
    first, second = caplog.messages
    assert first.startswith("model.dtype=bfloat16: this processor has none of amx_bf16, ")
    assert "about ten times slower" in first
    assert "\n" not in first
    assert second.startswith("inference.vllm_kwargs.dtype=bfloat16")


def test_the_cache_of_a_small_model_holds_every_sequence_up_to_one_gib() -> None:
    # Keys and values of 30 layers, 3 heads and 64 numbers of 4 bytes are 46,080 bytes a token.
    one = 46_080 * (64 + 64)
    assert options(max_model_len=64)["kv_cache_memory_bytes"] == 128 * one < GIB
    assert options(max_model_len=1024)["kv_cache_memory_bytes"] == GIB
    halved = options(max_model_len=64, flags=AVX2 | {"amx_bf16"})
    assert halved["kv_cache_memory_bytes"] == 128 * one // 2


def test_the_cache_of_a_large_model_holds_four_longest_sequences() -> None:
    # 2 x 32 layers x 8 heads x 128 numbers x 4 bytes = 262,144 bytes a token; vLLM takes 64 more.
    assert options(LLAMA3_8B)["kv_cache_memory_bytes"] == 4 * 262_144 * (4096 + 64)


def test_the_size_of_the_cache_can_be_set() -> None:
    assert options(kv_cache_gib=0.5)["kv_cache_memory_bytes"] == GIB // 2
    assert options(kv_cache_gib=2, on_gpu=True)["kv_cache_memory_bytes"] == 2 * GIB
    assert "kv_cache_memory_bytes" not in options(on_gpu=True)


def test_the_processor_is_named_with_its_instructions_for_bfloat16() -> None:
    name = processor_name()
    assert name
    assert ("bf16" in name) == (fast_dtype() == "bfloat16")
