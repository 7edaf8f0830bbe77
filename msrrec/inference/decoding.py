"""From example to prompt tokens, and from generated tokens to a side's output.

Pure functions of a tokenizer: batch inference, the command line and the service share them, and
training encodes its prompts here too, so the two can't drift apart.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msrrec.engines.base import AnswerChoice, Generation
from msrrec.errors import DataError
from msrrec.inference.fusion import SideOutput
from msrrec.inference.perplexity import perplexity
from msrrec.reasoning.parsing import parse_answer, split_output
from msrrec.reasoning.prompts import (
    OUTPUT_PREFIX,
    AnswerFormat,
    Side,
    render_answer,
    render_prompt,
    render_recommendation,
)
from msrrec.reasoning.titles import REASONING_END, clean_title, normalize_title

_SLOT = "\N{WHITE VERTICAL RECTANGLE}prompt\N{WHITE VERTICAL RECTANGLE}"


@dataclass(frozen=True)
class Query:
    """A question to the recommender, in titles.

    Attributes:
        key: What tells this query from others in the same run, such as the example id.
        history: Oldest first, at least one.
        candidates: At least two, all different after normalisation.
    """

    key: str
    domain: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]


def check_query(query: Query) -> None:
    """Refuse what no model could answer.

    Raises:
        DataError: If history or candidates are too few, blank, or two candidates read the same.
    """
    if not query.history:
        raise DataError("history: found no titles; expected at least one, oldest first")
    if len(query.candidates) < 2:
        raise DataError(f"candidates: found {len(query.candidates)}; expected at least two titles")
    for name, titles in (("history", query.history), ("candidates", query.candidates)):
        for n, title in enumerate(titles):
            if not clean_title(title):
                raise DataError(f"{name}[{n}]: the title is blank; expected visible text")
    seen: dict[str, int] = {}
    for n, title in enumerate(query.candidates):
        first = seen.setdefault(normalize_title(title), n)
        if first != n:
            raise DataError(
                f"candidates[{n}]: {clean_title(title)!r} reads the same as candidates[{first}]; "
                "expected titles that differ"
            )


def encode_prompt(tokenizer: Any, prompt: str, prefix: str = OUTPUT_PREFIX) -> list[int]:
    """Token ids of a prompt in the model's chat template, ending in ``prefix``.

    Only the template's own text may become special tokens: a title that spells ``<|eot_id|>`` is
    encoded as those characters. A tokenizer without a chat template gets its BOS, the prompt and a
    line break.
    """
    if getattr(tokenizer, "chat_template", None):
        template = tokenizer.apply_chat_template(
            [{"role": "user", "content": _SLOT}], tokenize=False, add_generation_prompt=True
        )
        before, after = template.split(_SLOT)
    else:
        before, after = tokenizer.bos_token or "", "\n"
    return [
        *tokenizer.encode(before, add_special_tokens=False),
        *encode_text(tokenizer, prompt),
        *tokenizer.encode(after + prefix, add_special_tokens=False),
    ]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text, in which nothing becomes a special token."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def encode_closing(tokenizer: Any) -> list[int]:
    """Token ids of the end marker and what stands between it and the answer."""
    return list(tokenizer.encode(render_recommendation(""), add_special_tokens=False))


def encode_choice(
    tokenizer: Any, candidates: Sequence[str], answer_format: AnswerFormat
) -> AnswerChoice:
    """What an output that names a candidate ends in, spelled as in training."""
    answers = (render_answer(title, n, answer_format) for n, title in enumerate(candidates))
    return AnswerChoice(
        tuple(encode_closing(tokenizer)),
        tuple(tuple(encode_text(tokenizer, answer)) for answer in answers),
    )


def fit_prompt(
    tokenizer: Any, side: Side, query: Query, answer_format: AnswerFormat, max_tokens: int
) -> tuple[list[int], int]:
    """The prompt within ``max_tokens``, the oldest history left out first; and how many were.

    Raises:
        DataError: If it does not fit with the latest title alone.
    """

    def encode(dropped: int) -> list[int]:
        history = query.history[dropped:]
        prompt = render_prompt(side, query.domain, history, query.candidates, answer_format)
        return encode_prompt(tokenizer, prompt)

    return shorten(encode, query, max_tokens)


def shorten(
    encode: Callable[[int], list[int]], query: Query, max_tokens: int
) -> tuple[list[int], int]:
    """What fits of a prompt, the oldest history left out first; and how many titles were.

    Args:
        encode: The prompt's token ids without so many of the oldest titles.
        query: What it asks.
        max_tokens: Room for it.

    Raises:
        DataError: If it does not fit with the latest title alone.
    """
    low, high = 0, len(query.history) - 1
    ids = encode(low)
    if len(ids) <= max_tokens:
        return ids, low
    ids = encode(high)
    if len(ids) > max_tokens:
        raise DataError(
            f"{query.key}: the prompt has {len(ids)} tokens with one history title; expected at "
            f"most {max_tokens}; use fewer candidates or a longer max_model_len"
        )
    while low + 1 < high:  # dropping ``high`` titles fits, dropping ``low`` does not
        middle = (low + high) // 2
        shorter = encode(middle)
        if len(shorter) <= max_tokens:
            high, ids = middle, shorter
        else:
            low = middle
    return ids, high


def request_seed(seed: int, key: str, side: Side) -> int:
    """The seed of one sample: the same for the same run seed, example and side on any machine."""
    return zlib.crc32(f"{seed}\x1f{key}\x1f{side}".encode()) & 0x7FFFFFFF


def read_generation(
    tokenizer: Any,
    side: Side,
    candidates: Sequence[str],
    generation: Generation,
    exact_format: AnswerFormat | None = None,
) -> SideOutput:
    """What a side said: its reasoning, its candidate, and its perplexities.

    Args:
        tokenizer: Of the model.
        side: Which chain.
        candidates: Titles in the frozen order.
        generation: What the engine returned.
        exact_format: Of the answers that the output was kept to; None where it was free. An answer
            that is one of them to the letter is that candidate, whatever else it could be read as.
    """
    ids = list(generation.token_ids)
    written = str(tokenizer.decode(ids, skip_special_tokens=True))
    text = OUTPUT_PREFIX + written
    output = split_output(text)
    index = _find_exact(output.answer, candidates, exact_format) if exact_format else None
    if index is None and output.answer:
        index = parse_answer(output.answer, candidates)
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
    return next((n for n, known in enumerate(rendered) if known == answer), None)


def count_reasoning_tokens(tokenizer: Any, token_ids: Sequence[int], written: str) -> int:
    """How many leading tokens are reasoning: those before the one that begins the end marker.

    All of them where the marker never comes.
    """
    end = written.find(REASONING_END)
    if end < 0:
        return len(token_ids)
    low, high = 0, len(token_ids)
    while low < high:  # the fewest tokens whose text reaches into the marker
        middle = (low + high) // 2
        text = tokenizer.decode(list(token_ids[: middle + 1]), skip_special_tokens=True)
        if len(text) > end:
            high = middle
        else:
            low = middle + 1
    return low
