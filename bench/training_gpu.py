"""Training steps of Llama-3-8B's shape with random weights.

For ``bench.training`` and ``bench.gpu``. A small shape runs on processors too, for tests.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.training_systems import (
    CONFIG,
    Step,
    accept_gqa,
    add_random_lora,
    make_examples,
    make_plain,
    needed_flops,
    void,
)
from msrrec.training.examples import ExampleSet

GPU_SYSTEMS = ("ours", "plain")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second, from the makers' data sheets."""

SHAPES: dict[str, dict[str, Any]] = {
    "llama3-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_theta": 500_000.0,
        "max_position_embeddings": 8192,
    },
    "tiny": {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
}
"""Settings of ``LlamaConfig``."""


@dataclass(frozen=True)
class Steps:
    """What training steps took.

    Attributes:
        device: The GPU's name, or ``cpu``.
        seconds: Wall time of each step but the first.
        num_tokens: Tokens of a step, of ``num_examples`` examples.
        of_peak: The share of the GPU's peak that the needed products would take; NaN if unknown.
        memory_gb: Peak memory of the GPU; 0 on processors.
    """

    device: str
    seconds: list[float]
    num_tokens: int
    num_examples: int
    of_peak: float
    memory_gb: float


def time_on_gpu(system: str, num_examples: int, steps: int, checkpointing: bool) -> None:
    """Print tokens per second, utilisation and peak memory for Llama-3-8B's shape."""
    found = measure_steps(system, "llama3-8b", num_examples, steps, checkpointing=checkpointing)
    best = min(found.seconds)
    print(
        f"{system} on {found.device}: {found.num_tokens / best:,.0f} tokens/s, "
        f"{num_examples / best:.2f} examples/s, {found.of_peak:.1%} of the "
        f"peak, {found.memory_gb:.1f} GB"
    )


def measure_steps(
    system: str, shape: str, num_examples: int, steps: int, *, checkpointing: bool = False
) -> Steps:
    """Times of training steps on the GPU if there is one, after one that warms up."""
    from transformers import LlamaConfig, LlamaForCausalLM

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    config = LlamaConfig(**SHAPES[shape], use_cache=False)
    accept_gqa()
    torch.set_default_dtype(dtype)
    with torch.device("cuda" if on_gpu else "cpu"):
        base = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model = add_random_lora(base)
    rng = np.random.default_rng(1)
    lengths = tuple(rng.integers(400, 731, num_examples).tolist())
    reasoning = tuple(rng.integers(150, 251, num_examples).tolist())
    examples = make_examples(config.vocab_size, lengths, reasoning)
    flops = needed_flops(model, examples)
    step = make_gpu_step(system, model, examples, checkpointing)
    step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = next((peak for key, peak in PEAK_FLOPS.items() if key in name), float("nan"))
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    return Steps(name, seconds, sum(lengths), num_examples, flops / min(seconds) / peak, memory)


def make_gpu_step(system: str, model: Any, examples: ExampleSet, checkpointing: bool) -> Step:
    """A function that takes one step of a system."""
    on_gpu = torch.cuda.is_available()
    if system == "plain":
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        return make_plain(model, examples, alike=False, bfloat16=on_gpu)
    from msrrec.training.learner import Learner

    settings = {
        "global_batch_size": len(examples),
        "micro_batch_size": len(examples),
        "gradient_checkpointing": checkpointing,
    }
    learner = Learner(model, CONFIG.model_copy(update=settings), bfloat16=on_gpu)
    batch = np.arange(len(examples))
    return lambda: void(learner.step(0, examples, batch, CONFIG.learning_rate))
