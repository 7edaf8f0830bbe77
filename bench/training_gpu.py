"""Training steps of Llama-3-8B's shape with random weights on a GPU, for ``bench.training``."""

import time
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


def time_on_gpu(system: str, num_examples: int, steps: int, checkpointing: bool) -> None:
    """Print tokens per second, utilisation and peak memory for Llama-3-8B's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        rope_theta=500_000.0,
        use_cache=False,
        dtype="bfloat16",
    )
    accept_gqa()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
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
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    name = torch.cuda.get_device_name()
    peak = next((peak for key, peak in PEAK_FLOPS.items() if key in name), float("nan"))
    print(
        f"{system} on {name}: {sum(lengths) / min(seconds):,.0f} tokens/s, "
        f"{num_examples / min(seconds):.2f} examples/s, {flops / min(seconds) / peak:.1%} of the "
        f"peak, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    )


def make_gpu_step(system: str, model: Any, examples: ExampleSet, checkpointing: bool) -> Step:
    if system == "plain":
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        return make_plain(model, examples, alike=False, bfloat16=True)
    from msrrec.training.learner import Learner

    settings = {
        "global_batch_size": len(examples),
        "micro_batch_size": len(examples),
        "gradient_checkpointing": checkpointing,
    }
    learner = Learner(model, CONFIG.model_copy(update=settings), bfloat16=True)
    batch = np.arange(len(examples))
    return lambda: void(learner.step(0, examples, batch, CONFIG.learning_rate))
