"""Reading generated tokens as a side's output: reasoning, candidate and perplexities.

These are pure functions of a tokenizer. Batch inference, the command line and the service share
them.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from msrrec.config import AnswerFormat
from msrrec.engines.base import Generation
from msrrec.inference.fusion import SideOutput
from msrrec.inference.perplexity import are_numbers, perplexity
from msrrec.reasoning.parsing import split_output
from msrrec.reasoning.prompts import OUTPUT_PREFIX, Side, render_answer
from msrrec.reasoning.reading import read_strict
from msrrec.titles import REASONING_END


def request_seed(seed: int, key: str, side: Side) -> int:
    """The seed of one sample; it depends only on run seed, key and side."""
    return zlib.crc32(f"{seed}\x1f{key}\x1f{side}".encode()) & 0x7FFFFFFF


def read_generation(
    tokenizer: Any,
    side: Side,
    candidates: Sequence[str],
    generation: Generation,
    exact_format: AnswerFormat | None = None,
) -> SideOutput:
    """A side's output: its reasoning, the candidate that it names, and its perplexities.

    Args:
        tokenizer: The model's tokenizer.
        side: The side that was generated.
        candidates: Titles as the prompt showed them, in the frozen order.
        generation: What the engine returned.
        exact_format: The format of the answers that the output was constrained to; None if it was
            free. An answer that equals one of them is that candidate, even if it could be read
            otherwise.

    An output with a log-probability that is not a number is invalid, as its perplexity can't be
    compared with another's.
    """
    ids = list(generation.token_ids)
    written = str(tokenizer.decode(ids, skip_special_tokens=True))
    text = OUTPUT_PREFIX + written
    output = split_output(text)
    index = _find_exact(output.answer, candidates, exact_format) if exact_format else None
    if index is None:
        index = read_strict(text, candidates)
    if not are_numbers(generation.token_logprobs):
        return SideOutput(side, text, output.reasoning, None, None, len(ids))
    scored = generation.token_logprobs[: len(reasoning_ids(tokenizer, generation))]
    return SideOutput(
        side=side,
        text=text,
        reasoning=output.reasoning,
        index=index,
        perplexity=perplexity(scored) if scored else None,
        num_tokens=len(ids),
        perplexity_output=perplexity(generation.token_logprobs) if ids else None,
    )


def reasoning_ids(tokenizer: Any, generation: Generation) -> tuple[int, ...]:
    """The tokens of an output before its end marker."""
    written = str(tokenizer.decode(list(generation.token_ids), skip_special_tokens=True))
    count = count_reasoning_tokens(tokenizer, generation.token_ids, written)
    return generation.token_ids[:count]


def _find_exact(
    answer: str | None, candidates: Sequence[str], answer_format: AnswerFormat
) -> int | None:
    rendered = (render_answer(title, n, answer_format) for n, title in enumerate(candidates))
    return next((n for n, known in enumerate(rendered) if known.strip() == answer), None)


def count_reasoning_tokens(tokenizer: Any, token_ids: Sequence[int], written: str) -> int:
    """Number of leading tokens before the one that begins the end marker.

    All tokens count if there is no end marker.
    """
    end = written.find(REASONING_END)
    if end < 0:
        return len(token_ids)
    low, high = 0, len(token_ids)
    while low < high:  # find the fewest tokens whose text reaches the marker
        middle = (low + high) // 2
        text = tokenizer.decode(list(token_ids[: middle + 1]), skip_special_tokens=True)
        if len(text) > end:
            high = middle
        else:
            low = middle + 1
    return low
