"""Byte-level tokenizers, and titles that they spell in different ways by what stands around."""

from collections.abc import Sequence
from typing import Any

CANDIDATES = ("LEGO City", "LEGO (2 Pack)", "12 mm Drill", '"Quoted" Mug', "Pan & Lid!", "LEGO")
"""Titles that begin and end with letters, digits and signs; one begins others."""

SPLITS = {
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
"""How families of tokenizers split a text before byte pairs are merged: Llama 3 and Qwen, GPT-2."""


def train_byte_level(family: str) -> Any:
    """A byte-level tokenizer of a family, trained on lines in which words follow a space."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[family]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [f"({n}) {title}\n" for n, title in enumerate(CANDIDATES * 20, 1)]
    tokenizer.train_from_iterator(["".join(lines)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def holds(ids: Sequence[int], part: Sequence[int]) -> bool:
    """Whether some token ids stand in a row within others."""
    ends = range(len(part), len(ids) + 1)
    return any(list(ids[end - len(part) : end]) == list(part) for end in ends)
