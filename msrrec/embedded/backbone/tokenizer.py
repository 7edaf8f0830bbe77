"""The embedded backbone's tokenizer: byte-level BPE of 2,048 entries, trained on our own texts.

The chain's markers and the numbers of a candidate list are vocabulary entries, so nothing needs to
be added later.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from msrrec.config import AnswerFormat, PromptConfig
from msrrec.reasoning.prompts import Side, render_instruction
from msrrec.titles import REASONING_END, REASONING_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
VOCAB_SIZE = 2048
MAX_LENGTH = 2048


def train_tokenizer(texts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """A tokenizer trained on the texts and on every instruction of the chain."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast  # seconds to import

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [f"({n})" for n in range(1, 21)]
    plain = [AddedToken(t, normalized=False) for t in (REASONING_START, REASONING_END, *numbers)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(plain),
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    forms = [PromptConfig(answer_format=answer_format) for answer_format in get_args(AnswerFormat)]
    prompts = [render_instruction(side, form) for side in get_args(Side) for form in forms]
    tokenizer.train_from_iterator([*texts, *prompts * 200], trainer)
    tokenizer.add_tokens(plain)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
