"""From a query to prompt tokens, and from candidates to the tokens of an answer.

These are pure functions of a tokenizer. Training, batch inference, the command line and the service
all encode prompts here, so they can't diverge.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msrrec.config import PromptConfig
from msrrec.errors import DataError
from msrrec.reasoning.prompts import (
    OUTPUT_PREFIX,
    Side,
    render_answers,
    render_prompt,
    render_recommendation,
)
from msrrec.reasoning.template import split_template
from msrrec.titles import clean_title, normalize_title, show_titles

_ENCODING = threading.Lock()
"""A tokenizer keeps as its own state whether special tokens count, and sets it before it encodes. A
call of another thread in between would change what a text becomes."""


@dataclass(frozen=True)
class Query:
    """History and candidates in titles, before they become a prompt.

    Attributes:
        key: Identifies this query within a run, such as the example id.
        history: Titles of past purchases, oldest first, at least one.
        candidates: Titles of the candidates, at least two, all different after normalisation.
    """

    key: str
    domain: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]


def show_query(query: Query, max_title_chars: int) -> Query:
    """The query with its titles as prompts show them, long ones cut."""
    return replace(
        query,
        history=tuple(clean_title(title, max_title_chars) for title in query.history),
        candidates=tuple(show_titles(query.candidates, max_title_chars)),
    )


@dataclass(frozen=True)
class AnswerChoice:
    """The answers one of which must end an output, after free reasoning.

    Attributes:
        closing: Token ids that end the reasoning, inserted if the model does not end it itself;
            empty if the prompt already ends in them.
        answers: Token ids of each answer without the end token, all different.
    """

    closing: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens needed for the longest ending, the end token included."""
        return len(self.closing) + max(map(len, self.answers)) + 1


def check_query(query: Query) -> None:
    """Refuse a query that no model could answer.

    Raises:
        DataError: If titles are too few or blank, or two candidates have equal titles.
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


def encode_prompt(
    tokenizer: Any,
    prompt: str,
    prefix: str = OUTPUT_PREFIX,
    *,
    use_chat_template: bool = True,
) -> list[int]:
    """Token ids of a prompt in the model's chat template, ending in ``prefix``.

    Only the template's own text may become special tokens: a title that spells ``<|eot_id|>`` is
    encoded as those characters. Without a chat template, or where it is not to be used, the prompt
    stands between BOS and a line break.

    Raises:
        ModelError: If the chat template can't be used.
    """
    before, after = split_template(tokenizer, use_chat_template=use_chat_template)
    return [
        *encode_markup(tokenizer, before),
        *encode_text(tokenizer, prompt),
        *encode_markup(tokenizer, after + prefix),
    ]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text, in which nothing becomes a special token; from any thread."""
    with _ENCODING:
        return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def encode_markup(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text of our own, which may name special tokens; from any thread."""
    with _ENCODING:
        return list(tokenizer.encode(text, add_special_tokens=False))


def encode_closing(tokenizer: Any) -> list[int]:
    """Token ids of the end marker and of the text between it and the answer."""
    return encode_markup(tokenizer, render_recommendation(""))


def encode_choice(tokenizer: Any, candidates: Sequence[str], form: PromptConfig) -> AnswerChoice:
    """The answers that may end an output, spelled as in training."""
    answers = render_answers(candidates, form)
    return AnswerChoice(
        tuple(encode_closing(tokenizer)),
        tuple(tuple(encode_text(tokenizer, answer)) for answer in answers),
    )


def fit_prompt(
    tokenizer: Any, side: Side, query: Query, form: PromptConfig, max_tokens: int
) -> tuple[list[int], int]:
    """The prompt's tokens within ``max_tokens``, and how many of the oldest titles were left out.

    Raises:
        DataError: If it does not fit even with only the latest title.
    """

    def encode(dropped: int) -> list[int]:
        history = query.history[dropped:]
        prompt = render_prompt(side, query.domain, history, query.candidates, form)
        return encode_prompt(tokenizer, prompt, use_chat_template=form.use_chat_template)

    return shorten(encode, query, max_tokens)


def shorten(
    encode: Callable[[int], list[int]], query: Query, max_tokens: int
) -> tuple[list[int], int]:
    """A prompt's tokens within a limit, and how many of the oldest titles were left out.

    Args:
        encode: Gives the prompt's token ids without a number of the oldest titles.
        query: The query of the prompt.
        max_tokens: Maximum number of tokens.

    Raises:
        DataError: If it does not fit even with only the latest title.
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
