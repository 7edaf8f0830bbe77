"""Loading the student: a frozen base model with LoRA matrices on its linear layers."""

from collections.abc import Sequence, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from msrrec import loading
from msrrec.config import LoraConfig, TrainConfig
from msrrec.errors import ConfigError, ModelError
from msrrec.loading import load_causal
from msrrec.models import ModelSource
from msrrec.processor import fast_dtype

Dtype = Literal["auto", "bfloat16", "float32"]


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a base model.

    Raises:
        ModelError: If it is missing, doesn't fit the model, or has no end token.
    """
    tokenizer = loading.load_tokenizer(source)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{source.path}: its tokenizer has no end token; expected one, to learn when to stop"
        )
    return tokenizer


def load_base(source: ModelSource, dtype: Dtype, *, on_gpu: bool, in_4bit: bool = False) -> Any:
    """The base model, with weights in the type that ``dtype`` stands for.

    It is on the CPU. A model in 4 bits is on the GPU if there is one, as bitsandbytes puts it
    there.

    Raises:
        ModelError: If the weights are missing, not whole, or not those of a causal language model.
    """
    weights = weight_dtype(dtype, on_gpu=on_gpu)
    quantized = four_bits(weights) if in_4bit else None
    model = load_causal(source, dtype=weights, quantization_config=quantized)
    model.config.use_cache = False
    return model


def four_bits(dtype: torch.dtype) -> Any:
    """Settings of QLoRA's 4-bit weights (arXiv:2305.14314): NF4, double quantisation."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_4bit(config: TrainConfig) -> None:
    """Refuse 4-bit weights if bitsandbytes is missing.

    Raises:
        ConfigError: If they are requested and bitsandbytes is missing.
    """
    if config.load_in_4bit and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train.load_in_4bit=true: bitsandbytes is not installed; install it with "
            "pip install bitsandbytes on every node, or leave the setting out"
        )


def add_lora(model: Any, config: TrainConfig, whole: Sequence[str] = ()) -> Any:
    """The PEFT model: LoRA matrices in float32, drawn from the seed; the rest is frozen.

    Args:
        model: A transformers model.
        config: Settings of the training run, LoRA's included.
        whole: Names of modules that are trained in full and saved with the matrices.

    Raises:
        ConfigError: If the model has no linear layers with the names in ``lora.targets``, or they
            are tied to others.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(model, config.lora)
    torch.manual_seed(config.seed)
    targets = config.lora.targets
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(whole) or None,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(
            f"lora.targets={targets}: {type(model).__name__} has no such linear layers; expected "
            "names such as q_proj, or all-linear"
        ) from error


def check_targets(model: Any, lora: LoraConfig) -> None:
    """Refuse LoRA on one of two places that share a matrix: merging would change the other too.

    Args:
        model: A transformers model, also one without data on the meta device.
        lora: Its targets.

    Raises:
        ConfigError: If a target is the vocabulary projection or the embedding, and these are tied.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or lora.targets == "all-linear" or head.weight is not embedding.weight:
        return
    shared = [
        name for name, m in model.named_modules() if getattr(m, "weight", None) is head.weight
    ]
    tied = [t for t in lora.targets if any(f".{name}".endswith(f".{t}") for name in shared)]
    if tied:
        raise ConfigError(
            f"lora.targets: {tied[0]} shares its weights with another part of this model "
            "(tie_word_embeddings), which merging would change too; leave it out, or untie the "
            "base model first"
        )


def probe_for_training(source: ModelSource, lora: LoraConfig) -> None:
    """Refuse a base model that can't be trained, from its tokenizer and its weights' headers.

    Raises:
        ConfigError: If the places of the LoRA matrices are tied.
        ModelError: If tokenizer, chat template or weights are not whole.
    """
    load_tokenizer(source)
    if Path(source.path).is_dir():  # a hub's files come with the first worker
        check_targets(load_causal(source, device_map="meta"), lora)


def weight_dtype(dtype: Dtype, *, on_gpu: bool, flags: Set[str] | None = None) -> torch.dtype:
    """The type of the frozen weights; auto is bfloat16 on GPUs, and what is fast on a processor.

    Args:
        dtype: The setting.
        on_gpu: Whether the model is for a GPU.
        flags: Names of the processor's instruction sets; None for this machine's.
    """
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu else fast_dtype(flags)
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def multiplies_in_bfloat16(dtype: Dtype, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16: never for float32, else where that is fast."""
    if dtype == "float32":
        return False
    return device.type != "cpu" or fast_dtype() == "bfloat16"
