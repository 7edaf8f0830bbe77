"""What a run costs: before the first call, while it runs, and at its caps.

Estimates rest on the journal's answers where there are enough, so a small first run
(``synthesis.num_examples=50``) prices a large one; where there are none, on plain assumptions that
the estimate names.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msrrec.config import EndpointConfig, RunConfig, TeacherConfig
from msrrec.engines.openai import estimate_tokens
from msrrec.errors import ConfigError
from msrrec.prices import token_cost
from msrrec.synthesis.plan import Budget, Plan, Spending

_ENOUGH_ANSWERS = 20
_ASSUMED = {
    "acceptance_rate": 0.3,  # teachers name the bought item for 27 to 39 users of 100
    "unreadable_rate": 0.05,
    "completion_tokens": 1500.0,  # five steps and the thoughts of a reasoning model
    "tokens_per_s": 50.0,
}
_WORST_PER_ESTIMATE = 2
"""A prompt has at most so many times the tokens that its bytes suggest."""

Row = dict[str, Any]


def build_budget(config: RunConfig, prompts: Sequence[str], spent: Spending) -> Budget:
    """The caps of a run and what a call costs at worst: the longest prompt and answer.

    Raises:
        ConfigError: If money is capped and a price is missing.
    """
    limits, endpoints = config.synthesis, config.teacher.endpoints
    if limits.max_cost is not None and any(e.prompt_price is None for e in endpoints):
        raise ConfigError(
            "synthesis.max_cost: needs the prices of every teacher; set teacher.prompt_price and "
            "teacher.completion_price, per million tokens"
        )
    longest = max(map(estimate_tokens, prompts)) * _WORST_PER_ESTIMATE
    worst = Spending(
        1,
        longest + max(e.max_tokens for e in endpoints),
        max(_price(e, longest, e.max_tokens) for e in endpoints),
    )
    caps = (limits.max_calls, limits.max_total_tokens, limits.max_cost)
    return Budget(Spending(*(math.inf if cap is None else cap for cap in caps)), spent, worst)


def estimate(
    config: RunConfig, prompts: Sequence[str], rows: Sequence[Row], plan: Plan
) -> dict[str, Any]:
    """Calls, tokens, cost and seconds that a run would take from here.

    Args:
        config: The run's settings.
        prompts: Of all examples.
        rows: Verdicts on the answers at hand.
        plan: Of the run, not begun.
    """
    found = _measure(rows) if len(rows) >= _ENOUGH_ANSWERS else _assume(config)
    prompt_tokens = sum(map(estimate_tokens, prompts)) / len(prompts) * found["prompt_scale"]
    completion_tokens = found["completion_tokens"]
    each = Spending(
        1,
        prompt_tokens + completion_tokens,
        _mean_price(config.teacher, prompt_tokens, completion_tokens),
    )
    calls, limited_by = _calls(config, plan, found, each)
    is_priced = all(e.prompt_price is not None for e in config.teacher.endpoints)
    return {
        "calls": calls,
        "limited_by": limited_by,
        "prompt_tokens": round(calls * prompt_tokens),
        "completion_tokens": round(calls * completion_tokens),
        "cost": round(calls * each.cost, 4) if is_priced else None,
        "seconds": _seconds(config, calls, each.tokens, found["latency_s"]),
        "answers_at_hand": len(rows),
        "rests_on": "the answers at hand" if len(rows) >= _ENOUGH_ANSWERS else "assumptions",
        "acceptance_rate": round(found["acceptance_rate"], 3),
        "tokens_per_call": round(each.tokens),
        "latency_s": round(found["latency_s"], 1),
    }


def _measure(rows: Sequence[Row]) -> dict[str, float]:
    count = len(rows)
    statuses = [row["status"] for row in rows]
    return {
        "acceptance_rate": statuses.count("valid") / count,
        "unreadable_rate": statuses.count("unreadable") / count,
        "completion_tokens": sum(row["completion_tokens"] for row in rows) / count,
        "prompt_scale": sum(row["prompt_tokens"] for row in rows)
        / sum(row["estimated_prompt_tokens"] for row in rows),
        "latency_s": sum(row["latency_s"] for row in rows) / count,
    }


def _assume(config: RunConfig) -> dict[str, float]:
    longest = max(endpoint.max_tokens for endpoint in config.teacher.endpoints)
    completion_tokens = min(_ASSUMED["completion_tokens"], longest)
    return {
        **_ASSUMED,
        "completion_tokens": completion_tokens,
        "prompt_scale": 1.0,
        "latency_s": completion_tokens / _ASSUMED["tokens_per_s"],
    }


def _calls(
    config: RunConfig, plan: Plan, found: Mapping[str, float], each: Spending
) -> tuple[int, str]:
    """Calls to expect, and what ends them: the examples, a threshold or a cap."""
    attempts, unread = config.synthesis.attempts, found["unreadable_rate"]
    tries = sum(unread**n for n in range(attempts))
    bounds: dict[str, float] = {"examples": plan.num_queued * tries}
    rate = found["acceptance_rate"]
    bounds |= {name: needed / rate if rate else math.inf for name, needed in plan.needed().items()}
    budget = plan.budget
    for name, setting in CAPS.items():
        left, one = getattr(budget.left, name), getattr(each, name)
        if one and left != math.inf:
            bounds[setting] = max(0.0, left / one)
    limited_by = min(bounds, key=lambda name: bounds[name])
    return math.ceil(bounds[limited_by]), limited_by


CAPS = {"calls": "max_calls", "tokens": "max_total_tokens", "cost": "max_cost"}
"""The setting of each cap."""


def _seconds(config: RunConfig, calls: int, tokens: float, latency_s: float) -> int:
    """The slowest of latency and the rates allowed."""
    teacher = config.teacher
    in_flight = teacher.concurrency * config.synthesis.num_actors * len(teacher.endpoints)
    bounds = [math.ceil(calls / in_flight) * latency_s]
    for name, each in (("requests_per_minute", 1.0), ("tokens_per_minute", tokens)):
        rates = [getattr(endpoint, name) for endpoint in teacher.endpoints]
        if all(rates):
            bounds.append(calls * each / sum(rates) * 60)
    return math.ceil(max(bounds))


def _mean_price(teacher: TeacherConfig, prompt_tokens: float, completion_tokens: float) -> float:
    """Of one call, over the teachers by weight."""
    weights = [endpoint.weight for endpoint in teacher.endpoints]
    prices = [_price(e, prompt_tokens, completion_tokens) for e in teacher.endpoints]
    return sum(w * p for w, p in zip(weights, prices, strict=True)) / sum(weights)


def _price(endpoint: EndpointConfig, prompt_tokens: float, completion_tokens: float) -> float:
    """The price of one call; 0 where none is known."""
    prices = endpoint.prompt_price, endpoint.completion_price
    return token_cost(prompt_tokens, completion_tokens, *prices) or 0.0
