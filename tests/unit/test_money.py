"""Estimates and caps, by hand."""

import pytest

from msrrec.chat.completions import estimate_tokens
from msrrec.config import load_config
from msrrec.errors import ConfigError
from msrrec.synthesis.money import build_budget, estimate
from msrrec.synthesis.plan import CompletionStatus, Plan, Spending
from msrrec.synthesis.verdicts import JudgedEntry
from tests.support.synthesis import judged

PROMPTS = ["x" * 399] * 1000  # 100 tokens each
PRICES = ["teacher.prompt_price=1", "teacher.completion_price=2"]


def test_four_bytes_are_a_token() -> None:
    assert estimate_tokens("x" * 399) == 100
    assert estimate_tokens("漢") == 1


def answer(status: CompletionStatus) -> JudgedEntry:
    """One of 120 prompt tokens, estimated as 100, and 400 completion tokens, after 8 s."""
    return judged(status=status, prompt_tokens=120, completion_tokens=400, latency_s=8.0)


def test_an_estimate_rests_on_the_answers_at_hand() -> None:
    config = load_config(None, [*PRICES, "synthesis.tau=300", "teacher.concurrency=10"])
    statuses: list[CompletionStatus] = ["valid"] * 20 + ["settled"] * 20
    answered = {str(n): {0: status} for n, status in enumerate(statuses)}
    plan = Plan(map(str, range(1000)), 1, 300, answered)
    found = estimate(config, PROMPTS, list(map(answer, statuses)), plan)
    # 280 more at one in two; 100 tokens are 120 in truth
    assert (found.calls, found.limited_by) == (560, "tau")
    assert found.prompt_tokens == 560 * 120
    assert found.completion_tokens == 560 * 400
    assert found.cost == pytest.approx(560 * (120 * 1 + 400 * 2) / 1e6)
    assert found.seconds == 560 / 10 * 8
    assert found.rests_on == "the answers at hand"


def test_an_estimate_without_answers_says_that_it_assumes() -> None:
    config = load_config(None, ["teacher.max_tokens=500"])
    found = estimate(config, PROMPTS, [], Plan(map(str, range(1000)), 1, None, {}))
    assert (found.calls, found.limited_by, found.cost) == (1000, "examples", None)
    assert found.completion_tokens == 1000 * 500  # never more than max_tokens
    assert found.rests_on == "assumptions"


def test_caps_and_rates_bound_an_estimate() -> None:
    config = load_config(
        None, [*PRICES, "synthesis.max_cost=0.31", "teacher.requests_per_minute=10"]
    )
    budget = build_budget(config, PROMPTS, Spending())
    found = estimate(config, PROMPTS, [], Plan(map(str, range(1000)), 1, None, {}, (), budget))
    # a call costs (100 x 1 + 1500 x 2) / 1e6 = 0.0031
    assert (found.calls, found.limited_by) == (100, "max_cost")
    assert found.seconds == 600


def test_the_worst_call_is_the_longest_answer_to_twice_the_tokens_of_the_longest_prompt() -> None:
    config = load_config(
        None, [*PRICES, "synthesis.max_total_tokens=12000", "teacher.max_tokens=1000"]
    )
    budget = build_budget(config, PROMPTS, Spending(1, 1200, 0))
    assert budget.room(2) == 9 - 2  # (12000 - 1200) / (2 x 100 + 1000)
    assert budget.reached is None


def test_money_can_be_capped_only_with_prices() -> None:
    with pytest.raises(ConfigError, match=r"max_cost: needs the prices"):
        build_budget(load_config(None, ["synthesis.max_cost=1"]), PROMPTS, Spending())
    with pytest.raises(ConfigError, match="found only one"):
        load_config(None, ["teacher.prompt_price=1"])
