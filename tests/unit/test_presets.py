"""Every shipped preset trains: LoRA finds its places in a model of that architecture."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from msrrec.config import load_config
from msrrec.training.learner import Learner
from msrrec.training.model import add_lora
from tests.support.training import SHAPE

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
MODELS = {
    "meta-llama/Meta-Llama-3-8B-Instruct": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "meta-llama/Llama-3.2": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        )
    ),
    "Qwen/Qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
    "embedded": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "smollm2-135m": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
}
TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_lora_adapts_every_linear_layer_but_the_head(path: Path) -> None:
    config = load_config(path)
    name = config.model.name_or_path
    (family,) = (family for family in MODELS if name.startswith(family))
    model = add_lora(MODELS[family](), config.train)
    adapted = [n.removesuffix(".lora_A") for n, _ in model.named_modules() if n.endswith("lora_A")]
    assert len(adapted) == 2 * len(TARGETS)
    assert {place.rpartition(".")[2] for place in adapted} == TARGETS
    learner = Learner(model, config.train, bfloat16=False)
    assert learner.head is not None  # so the fast layers fit this architecture
    assert {w.dtype for w in learner.weights} == {torch.float32}
    assert sum(w.numel() for w in learner.weights) == sum(
        config.train.lora.rank * sum(model.get_submodule(place).base_layer.weight.shape)
        for place in adapted
    )
