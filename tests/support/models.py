"""Models of next to no weights, whole and damaged, for several test files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msrrec.models import ModelSource, write_settings

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"
"""What stands in the place of a large file after `git clone` without the extension."""


def write_safetensors(path: Path, names: tuple[str, ...]) -> None:
    """A file of weights with one number under each name, written by hand."""
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
        for n, name in enumerate(names)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * len(names)))


def write_shards(folder: Path) -> None:
    """A folder with a config, two shards and their index; no loader could use it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    shards = {"model-00001-of-00002.safetensors": "a", "model-00002-of-00002.safetensors": "b"}
    for shard, name in shards.items():
        write_safetensors(folder / shard, (name,))
    index = {"weight_map": {name: shard for shard, name in shards.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_llama(folder: str, *, tied: bool = False) -> None:
    """A Llama of two small layers, and a tokenizer of words, without a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer() -> Any:
    """One token a character, the end token last."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = {chr(n): n - 32 for n in range(32, 127)} | {"\n": 95, "<unk>": 96}
    plain = Tokenizer(models.WordLevel(characters, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", eos_token="<end>")


def rewrite_weights(folder: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a model's tensors again, as ``change`` returns them."""
    from safetensors.torch import load_file, save_file

    path = f"{folder}/model.safetensors"
    save_file(change(dict(load_file(path))), path, {"format": "pt"})


def write_trained(folder: Path, base: str, domain: str, *, rank: int = 8) -> str:
    """A trained model's folder as far as its files' names go; the folder."""
    settings = {"base_model": base, "revision": None, "domain": domain}
    write_settings(str(folder), settings)  # type: ignore[arg-type]
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": rank}))
    write_safetensors(adapter / "adapter_model.safetensors", (domain,))
    return str(folder)


def source_of(folder: str) -> ModelSource:
    """The source of a folder that holds a base model."""
    return ModelSource("base", folder, None)
