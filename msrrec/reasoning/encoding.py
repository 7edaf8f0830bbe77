"""From a query to prompt tokens, and from candidates to the tokens of an answer.

Pure functions of a tokenizer: training, batch inference, the command line and the service encode
their prompts here, so they can't drift apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msrrec.config import AnswerFormat
from msrrec.errors import DataError
from msrrec.reasoning.prompts import (
    OUTPUT_PREFIX,
    Side,
    render_answer,
    render_prompt,
    render_recommendation,
)
from msrrec.reasoning.template import split_template
from msrrec.titles import clean_title, normalize_title


@dataclass(frozen=True)
class Query:
    """What the recommender is asked, in titles.

    Attributes:
        key: Identifies this query within a run, such as the example id.
        history: Oldest first, at least one.
        candidates: At least two, all different after normalisation.
    """

    key: str
    domain: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class AnswerChoice:
    """The answers of which an output must end in one, after free reasoning.

    Attributes:
        closing: Token ids that end the reasoning, written for a model that does not do so itself;
            none where the prompt ends in them.
        answers: Token ids of each, all different, the end token left out.
    """

    closing: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Room for the longest ending, the end token included."""
        return len(self.closing) + max(map(len, self.answers)) + 1


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

    Raises:
        ModelError: If the chat template can't be used.
    """
    before, after = split_template(tokenizer)
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
