import pytest

from msrrec.prices import token_cost


def test_a_call_costs_its_tokens_by_the_price_of_a_million() -> None:
    # 500,000 tokens at 2 a million are 1; 250,000 at 8 are 2
    assert token_cost(500_000, 250_000, 2.0, 8.0) == pytest.approx(3.0)


def test_a_call_without_a_known_price_costs_nothing_that_can_be_told() -> None:
    assert token_cost(1, 1, None, 8.0) is None
    assert token_cost(1, 1, 2.0, None) is None
