"""A base model that trains in a second, and what it is trained with, for several test files."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset

STEPS = ["Likes {t}.", "(1) is a thing.", "(1) fits.", "(1)", "{t}, as it fits."]

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.5,  # far from even attention, so that positions and masks matter
}
"""Of a model that has next to no weights."""


def save_base(folder: str) -> None:
    """A Llama of two small layers with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from msrrec.embedded.backbone.corpus import iter_documents, make_words
    from msrrec.embedded.backbone.tokenizer import train_tokenizer

    stream = iter_documents(0, make_words(0, []))
    texts = ["".join(text for text, _ in next(stream)) for _ in range(300)]
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_paths(folder: str, dataset: Dataset, count: int) -> None:
    """Paths of the first users."""
    rows = [
        {
            "example_id": e.example_id,
            "steps": [s.format(t=dataset.items[e.target].title) for s in STEPS],
            "reasoning": "",
            "item_id": e.target,
            "model": "offline",
        }
        for e in dataset.examples("train")[:count]
    ]
    storage.write_table(f"{folder}/paths.parquet", pa.Table.from_pylist(rows, schema.PATHS))


def settings_for(base: str, *overrides: str) -> list[str]:
    """Two epochs in batches of four, with a checkpoint at every second step."""
    return [
        f"model.name_or_path={base}",
        "model.dtype=float32",
        "train.num_epochs=2",
        "train.global_batch_size=4",
        "train.micro_batch_size=2",
        "train.log_every_steps=1",
        "train.checkpoint_every_steps=2",
        "train.max_failures=0",
        *overrides,
    ]


def make_config(base: str, *overrides: str) -> RunConfig:
    """The same, resolved."""
    return load_config(None, settings_for(base, *overrides))


def adapter_weights(out: Path) -> dict[str, Any]:
    """The trained matrices in a model's folder."""
    from safetensors.torch import load_file

    return dict(load_file(out / "adapter" / "adapter_model.safetensors"))
