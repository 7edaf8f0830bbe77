"""The interface of text generators: requests, generations and engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msrrec.reasoning.encoding import AnswerChoice

MAX_NEXT_IDS = 128
"""Most tokens that one request asks the log-probabilities of; vLLM's own limit."""


@dataclass(frozen=True)
class GenerationRequest:
    """One sample of one prompt.

    Attributes:
        prompt_ids: Token ids of the prompt, output prefix included.
        seed: Seed of this sample, so that it does not depend on its batch.
        max_new_tokens: Maximum number of tokens to generate.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Probability mass of nucleus sampling.
        choice: The answers one of which must end the output; None for no constraint.
        next_ids: Tokens whose log-probability as the first new token is wanted too, at most
            ``MAX_NEXT_IDS``.
        adapter: The name of one of the engine's further adapters; None for the engine's own model.
    """

    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    choice: AnswerChoice | None = None
    next_ids: tuple[int, ...] = ()
    adapter: str | None = None


@dataclass(frozen=True)
class Generation:
    """One sampled output.

    Attributes:
        token_ids: Generated tokens without the end token.
        token_logprobs: Natural log-probability of each token at temperature 1, without any
            constraint; same length.
        finish_reason: ``stop`` when the model ended, ``length`` when it was cut.
        end_logprob: Log-probability of the end token; None if the output was cut before it.
        next_logprobs: Log-probability of each of the request's ``next_ids``, in their order.
    """

    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    finish_reason: str
    end_logprob: float | None = None
    next_logprobs: tuple[float, ...] = ()


class Engine(Protocol):
    """A model that continues prompts."""

    tokenizer: Any
    """The Hugging Face tokenizer of the model."""

    model_name: str
    """Name of the model in results."""

    max_model_len: int
    """Maximum number of tokens of prompt and output together."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One output per request, in order."""
        ...
