"""Likelihoods of given texts: of the candidates, and of a reasoning without its prompt.

Each text is generated as the only answer that its request allows, and its log-probabilities are
read. So the prompt is found in the prefix cache; log-probabilities of prompt tokens would need it
to be computed again for every candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from msrrec.config import PromptConfig
from msrrec.engines.base import Engine, Generation, GenerationRequest
from msrrec.inference.perplexity import are_numbers, perplexity
from msrrec.reasoning.encoding import AnswerChoice, Query, encode_choice
from msrrec.reasoning.prompts import OUTPUT_PREFIX


@dataclass(frozen=True)
class GeneratedReasoning:
    """A reasoning and the request that it was generated for."""

    query: Query
    request: GenerationRequest
    reasoning_ids: tuple[int, ...]


def candidate_logprobs(
    engine: Engine, generated: Sequence[GeneratedReasoning], form: PromptConfig
) -> list[tuple[float, ...] | None]:
    """Log-likelihood of each candidate's answer, end token included, after each reasoning.

    A reasoning that leaves no room for the answers is cut at its end.

    None for a reasoning where one of them is not a number.
    """
    requests: list[GenerationRequest] = []
    for one in generated:
        choice = encode_choice(engine.tokenizer, one.query.candidates, form)
        room = engine.max_model_len - len(one.request.prompt_ids) - choice.num_tokens
        reasoning = one.reasoning_ids[: max(room, 0)]
        prompt = (*one.request.prompt_ids, *reasoning, *choice.closing)
        requests += [dictate(prompt, answer) for answer in choice.answers]
    scores = map(_log_likelihood, engine.generate(requests))
    found = [tuple(islice(scores, len(one.query.candidates))) for one in generated]
    return [values if are_numbers(values) else None for values in found]


def unconditional_perplexities(
    engine: Engine, generated: Sequence[GeneratedReasoning]
) -> list[float | None]:
    """Perplexity of each reasoning without its prompt; None without a reasoning or a number."""
    beginning = _encode_beginning(engine.tokenizer)
    requests = [dictate(beginning, one.reasoning_ids) for one in generated if one.reasoning_ids]
    generations = iter(engine.generate(requests))
    return [
        _known_perplexity(next(generations)) if one.reasoning_ids else None for one in generated
    ]


def _known_perplexity(generation: Generation) -> float | None:
    """None where a log-probability is no number."""
    scores = generation.token_logprobs
    return perplexity(scores) if are_numbers(scores) else None


def _encode_beginning(tokenizer: Any) -> tuple[int, ...]:
    """Tokens before an output without a prompt: the beginning token and the start marker."""
    text = (tokenizer.bos_token or "") + OUTPUT_PREFIX
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def dictate(prompt: tuple[int, ...], text: tuple[int, ...]) -> GenerationRequest:
    """A request whose output can only be the given text."""
    return GenerationRequest(
        prompt_ids=prompt,
        seed=0,
        max_new_tokens=len(text) + 1,
        temperature=0.0,
        choice=AnswerChoice((), (text,)),
    )


def _log_likelihood(generation: Generation) -> float:
    assert generation.end_logprob is not None  # an output with a single allowed answer always ends
    return math.fsum((*generation.token_logprobs, generation.end_logprob))
