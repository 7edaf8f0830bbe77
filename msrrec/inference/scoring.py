"""Likelihoods of given texts: of the candidates, and of a reasoning without its prompt.

Candidates with numbers are told apart by the number alone, so one new token after the reasoning
gives the likelihood of all of them. Any other text is generated as the only answer that its request
allows, and its log-probabilities are read. Both ways the prompt is found in the prefix cache;
log-probabilities of prompt tokens would need it to be computed again for every candidate.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import Any

from msrrec.config import PromptConfig
from msrrec.engines.base import MAX_NEXT_IDS, Engine, Generation, GenerationRequest
from msrrec.inference.perplexity import are_numbers, perplexity
from msrrec.reasoning.encoding import AnswerChoice, Query, encode_choice, encode_markup
from msrrec.reasoning.prompts import OUTPUT_PREFIX


@dataclass(frozen=True)
class GeneratedReasoning:
    """A reasoning and the request that it was generated for."""

    query: Query
    request: GenerationRequest
    reasoning_ids: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A place in the answers where their next tokens differ.

    Attributes:
        prefix: Tokens of an answer before it.
        members: By next token, the indices of the answers that go on with it.
    """

    prefix: tuple[int, ...]
    members: Mapping[int, tuple[int, ...]]


class CandidateScoring:
    """What to ask an engine for the log-likelihood of each candidate, and how to read it.

    With answers ``number_title`` it is that of the candidate's number where only candidates'
    numbers may follow, so the likelihoods of a query's candidates sum to 1, and a query takes one
    new token, or a few where numbers of two digits are two tokens. With answers ``title`` it is
    that of the whole title, end token included, and takes as many tokens as all titles have.

    A reasoning that leaves no room for the answers is cut at its end.

    Attributes:
        requests: What to generate.
    """

    def __init__(
        self, tokenizer: Any, max_model_len: int, form: PromptConfig, one: GeneratedReasoning
    ) -> None:
        choice = encode_choice(tokenizer, one.query.candidates, form)
        room = max_model_len - len(one.request.prompt_ids) - choice.num_tokens
        reasoning = one.reasoning_ids[: max(room, 0)]
        prompt = (*one.request.prompt_ids, *reasoning, *choice.closing)
        self._answers = choice.answers
        self._branches = find_branches(choice.answers) if form.answer_format != "title" else []
        self.requests = [
            _ask_next((*prompt, *branch.prefix), tokens)
            for branch in self._branches
            for tokens in _split(tuple(branch.members), MAX_NEXT_IDS)
        ] or [dictate(prompt, answer) for answer in choice.answers]

    def read(self, generations: Iterable[Generation]) -> tuple[float, ...] | None:
        """Log-likelihood of each candidate; None if one of them is not a number.

        Args:
            generations: The outputs of ``requests``, in order.
        """
        if self._branches:
            scores = chain.from_iterable(one.next_logprobs for one in generations)
            values = _weigh_branches(self._branches, scores, len(self._answers))
        else:
            values = tuple(map(_log_likelihood, generations))
        return values if are_numbers(values) else None


def candidate_logprobs(
    engine: Engine, generated: Sequence[GeneratedReasoning], form: PromptConfig
) -> list[tuple[float, ...] | None]:
    """Log-likelihood of each candidate after each reasoning, see ``CandidateScoring``."""
    scorings = [
        CandidateScoring(engine.tokenizer, engine.max_model_len, form, one) for one in generated
    ]
    found = iter(engine.generate([request for one in scorings for request in one.requests]))
    return [one.read(list(islice(found, len(one.requests)))) for one in scorings]


def find_branches(answers: Sequence[tuple[int, ...]]) -> list[Branch]:
    """Every place where answers differ in their next token, the first place first.

    Args:
        answers: Token ids, of which no one is the beginning of another.
    """
    found: list[Branch] = []
    open_ones = [list(range(len(answers)))]
    while open_ones:
        group = open_ones.pop(0)
        depth = _shared_length([answers[i] for i in group])
        members: dict[int, list[int]] = {}
        for i in group:
            members.setdefault(answers[i][depth], []).append(i)
        prefix = answers[group[0]][:depth]
        found.append(Branch(prefix, {token: tuple(of) for token, of in members.items()}))
        open_ones += [of for of in members.values() if len(of) > 1]
    return found


def _shared_length(answers: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all answers begin with alike."""
    return sum(
        1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*answers, strict=False))
    )


def _split(tokens: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [tokens[begin : begin + size] for begin in range(0, len(tokens), size)]


def _ask_next(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> GenerationRequest:
    """A request for the log-probabilities of some next tokens."""
    return GenerationRequest(prompt, 0, max_new_tokens=1, temperature=0.0, next_ids=tokens)


def _weigh_branches(
    branches: Sequence[Branch], scores: Iterator[float], num_answers: int
) -> tuple[float, ...]:
    """Log-likelihood of each answer, from the scores of all branches' tokens in order."""
    totals = [0.0] * num_answers
    for branch in branches:
        values = list(islice(scores, len(branch.members)))
        total = _log_sum(values)
        for value, members in zip(values, branch.members.values(), strict=True):
            for i in members:
                totals[i] += value - total
    return tuple(totals)


def _log_sum(values: Sequence[float]) -> float:
    """Logarithm of the sum of the values' exponentials."""
    best = max(values)
    return best + math.log(math.fsum(math.exp(value - best) for value in values))


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
    return tuple(encode_markup(tokenizer, text))


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
