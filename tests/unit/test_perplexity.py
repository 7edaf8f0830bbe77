import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec import perplexity


def test_perplexity_of_halves_is_two() -> None:
    assert perplexity([math.log(0.5)] * 7) == pytest.approx(2.0, abs=1e-12)


def test_perplexity_is_the_inverse_geometric_mean_of_the_probabilities() -> None:
    # sqrt(1 / (1/2 * 1/8)) = sqrt(16) = 4
    assert perplexity([math.log(1 / 2), math.log(1 / 8)]) == pytest.approx(4.0, abs=1e-12)


def test_certain_tokens_have_perplexity_one() -> None:
    assert perplexity([0.0, 0.0]) == 1.0


def test_impossible_tokens_do_not_overflow() -> None:
    assert perplexity([-1e9]) == pytest.approx(math.exp(700))


def test_perplexity_of_no_tokens_is_undefined() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        perplexity([])


@given(st.lists(st.floats(-50, 0), min_size=1))
def test_perplexity_lies_between_those_of_its_likeliest_and_unlikeliest_token(
    logprobs: list[float],
) -> None:
    low, high = math.exp(-max(logprobs)), math.exp(-min(logprobs))
    assert low * (1 - 1e-9) <= perplexity(logprobs) <= high * (1 + 1e-9)
