"""The cost of a run: estimated before the first call, counted during the run, and capped.

Estimates use the journal's completions if there are enough, so a small first run
(``synthesis.num_examples=50``) prices a large one. Otherwise they use fixed assumptions, which the
estimate names.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msrrec.chat.completions import estimate_tokens
from msrrec.config import EndpointConfig, RunConfig, TeacherConfig
from msrrec.errors import ConfigError
from msrrec.prices import token_cost
from msrrec.synthesis.plan import Budget, Plan, Spending
from msrrec.synthesis.verdicts import JudgedEntry

_ENOUGH_ANSWERS = 20
_ASSUMED_ACCEPTANCE_RATE = 0.3
"""Assumed share of valid paths; teachers name the target for 27 to 39 of 100 users."""
_ASSUMED_UNREADABLE_RATE = 0.05
_ASSUMED_COMPLETION_TOKENS = 1500.0
"""Assumed tokens per completion: five steps and the hidden reasoning of a reasoning model."""
_ASSUMED_TOKENS_PER_S = 50.0
_WORST_PER_ESTIMATE = 2
"""Upper bound of a prompt's true tokens, as a multiple of the tokens estimated from its bytes."""


@dataclass(frozen=True)
class Basis:
    """What an estimate is based on: means over judged completions, or assumptions.

    Attributes:
        acceptance_rate: Valid paths per completion.
        unreadable_rate: Share of unreadable completions, which are requested again.
        completion_tokens: Mean tokens per completion.
        prompt_scale: True prompt tokens for each estimated one.
        latency_s: Mean seconds of a call.
    """

    acceptance_rate: float
    unreadable_rate: float
    completion_tokens: float
    prompt_scale: float
    latency_s: float


@dataclass(frozen=True)
class Estimate:
    """What a run would still take.

    Attributes:
        limited_by: What will end the run: the examples, a threshold or a cap.
        cost: Expected cost; None if a price is unknown.
        answers_at_hand: Number of judged completions in the journal.
        rests_on: "the answers at hand", or "assumptions" if those are too few.
    """

    calls: int
    limited_by: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    seconds: int
    answers_at_hand: int
    rests_on: str
    acceptance_rate: float
    tokens_per_call: int
    latency_s: float


def build_budget(config: RunConfig, prompts: Iterable[str], spent: Spending) -> Budget:
    """The caps of a run, and the highest possible cost of one call: longest prompt and completion.

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
    config: RunConfig, prompts: Iterable[str], entries: Sequence[JudgedEntry], plan: Plan
) -> Estimate:
    """Calls, tokens, cost and seconds that a run would still take.

    Args:
        config: The run's settings.
        prompts: The prompts of all examples.
        entries: The judged completions so far.
        plan: The run's calls, none of them made yet.
    """
    is_measured = len(entries) >= _ENOUGH_ANSWERS
    basis = _measure(entries) if is_measured else _assume(config)
    num_prompts = num_tokens = 0
    for prompt in prompts:
        num_prompts += 1
        num_tokens += estimate_tokens(prompt)
    prompt_tokens = num_tokens / num_prompts * basis.prompt_scale
    completion_tokens = basis.completion_tokens
    each = Spending(
        1,
        prompt_tokens + completion_tokens,
        _mean_price(config.teacher, prompt_tokens, completion_tokens),
    )
    calls, limited_by = _calls(config, plan, basis, each)
    is_priced = all(e.prompt_price is not None for e in config.teacher.endpoints)
    return Estimate(
        calls=calls,
        limited_by=limited_by,
        prompt_tokens=round(calls * prompt_tokens),
        completion_tokens=round(calls * completion_tokens),
        cost=round(calls * each.cost, 4) if is_priced else None,
        seconds=_seconds(config, calls, each.tokens, basis.latency_s),
        answers_at_hand=len(entries),
        rests_on="the answers at hand" if is_measured else "assumptions",
        acceptance_rate=round(basis.acceptance_rate, 3),
        tokens_per_call=round(each.tokens),
        latency_s=round(basis.latency_s, 1),
    )


def _measure(entries: Sequence[JudgedEntry]) -> Basis:
    count = len(entries)
    statuses = [entry.status for entry in entries]
    return Basis(
        acceptance_rate=statuses.count("valid") / count,
        unreadable_rate=statuses.count("unreadable") / count,
        completion_tokens=sum(entry.completion_tokens for entry in entries) / count,
        prompt_scale=sum(entry.prompt_tokens for entry in entries)
        / sum(entry.estimated_prompt_tokens for entry in entries),
        latency_s=sum(entry.latency_s for entry in entries) / count,
    )


def _assume(config: RunConfig) -> Basis:
    longest = max(endpoint.max_tokens for endpoint in config.teacher.endpoints)
    completion_tokens = min(_ASSUMED_COMPLETION_TOKENS, longest)
    return Basis(
        acceptance_rate=_ASSUMED_ACCEPTANCE_RATE,
        unreadable_rate=_ASSUMED_UNREADABLE_RATE,
        completion_tokens=completion_tokens,
        prompt_scale=1.0,
        latency_s=completion_tokens / _ASSUMED_TOKENS_PER_S,
    )


def _calls(config: RunConfig, plan: Plan, basis: Basis, each: Spending) -> tuple[int, str]:
    """The expected number of calls, and what ends them: the examples, a threshold or a cap."""
    tries = sum(basis.unreadable_rate**n for n in range(config.synthesis.attempts))
    bounds: dict[str, float] = {"examples": plan.num_queued * tries}
    rate = basis.acceptance_rate
    bounds |= {name: needed / rate if rate else math.inf for name, needed in plan.needed().items()}
    budget = plan.budget
    for name, setting in CAPS.items():
        left, one = getattr(budget.left, name), getattr(each, name)
        if one and left != math.inf:
            bounds[setting] = max(0.0, left / one)
    limited_by = min(bounds, key=lambda name: bounds[name])
    return math.ceil(bounds[limited_by]), limited_by


CAPS = {"calls": "max_calls", "tokens": "max_total_tokens", "cost": "max_cost"}
"""Name of the setting of each cap."""


def _seconds(config: RunConfig, calls: int, tokens: float, latency_s: float) -> int:
    """Expected seconds: the longest of what latency and the allowed rates need."""
    teacher = config.teacher
    in_flight = teacher.concurrency * config.synthesis.num_actors * len(teacher.endpoints)
    bounds = [math.ceil(calls / in_flight) * latency_s]
    for name, each in (("requests_per_minute", 1.0), ("tokens_per_minute", tokens)):
        rates = [getattr(endpoint, name) for endpoint in teacher.endpoints]
        if all(rates):
            bounds.append(calls * each / sum(rates) * 60)
    return math.ceil(max(bounds))


def _mean_price(teacher: TeacherConfig, prompt_tokens: float, completion_tokens: float) -> float:
    """The mean price of one call over the teachers, by weight."""
    weights = [endpoint.weight for endpoint in teacher.endpoints]
    prices = [_price(e, prompt_tokens, completion_tokens) for e in teacher.endpoints]
    return sum(w * p for w, p in zip(weights, prices, strict=True)) / sum(weights)


def _price(endpoint: EndpointConfig, prompt_tokens: float, completion_tokens: float) -> float:
    """The price of one call; 0 if unknown."""
    prices = endpoint.prompt_price, endpoint.completion_price
    return token_cost(prompt_tokens, completion_tokens, *prices) or 0.0
