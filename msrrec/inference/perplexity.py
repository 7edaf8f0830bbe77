"""Perplexity of generated text (paper, before Eq. 3)."""

import math
from collections.abc import Sequence


def are_numbers(token_logprobs: Sequence[float]) -> bool:
    """Whether no log-probability is NaN or positive infinity, which only a broken engine gives."""
    return all(value < math.inf for value in token_logprobs)


def perplexity(token_logprobs: Sequence[float]) -> float:
    """exp(-mean) of natural log-probabilities, at least 1; lower means more certain.

    Args:
        token_logprobs: One value per token, each at most 0, of the untempered distribution
            (temperature 1) whatever the sampling temperature was.

    Raises:
        ValueError: If there are no tokens.
    """
    if len(token_logprobs) == 0:
        raise ValueError(
            "perplexity of no tokens is undefined; expected at least one log-probability"
        )
    mean = math.fsum(token_logprobs) / len(token_logprobs)
    return math.exp(min(-mean, 700.0))  # exp overflows beyond 709
