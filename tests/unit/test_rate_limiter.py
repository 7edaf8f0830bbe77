"""Calls in flight follow the teacher, and rates hold."""

import asyncio
import time

import pytest

from msrrec.synthesis import rate_limiter as module
from msrrec.synthesis.rate_limiter import RateLimiter


@pytest.fixture
def _exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only sleeping moves on, so that no busy machine does."""
    now_s = 1000.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(module.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)


def test_one_bad_moment_halves_the_limit_once_and_answers_raise_it_again() -> None:
    limiter = RateLimiter(64)
    began = time.monotonic()
    assert limiter.on_overload(began, 0.0)
    assert not limiter.on_overload(began, 0.0)  # it began before the cut
    assert limiter.limit == 32
    assert limiter.on_overload(time.monotonic() + 1, 0.0)
    assert limiter.limit == 16
    limiter.on_answer()
    assert limiter.limit == 16 + 4 / 16  # by 64 / 16 with every 16 answers
    for _ in range(1000):
        limiter.on_answer()
    assert limiter.limit == 64


def test_the_limit_never_falls_below_one_call() -> None:
    limiter = RateLimiter(2)
    for n in range(9):
        limiter.on_overload(time.monotonic() + n, 0.0)
    assert limiter.limit == 1
    assert limiter.has_room


@pytest.mark.usefixtures("_exact_clock")
def test_requests_are_spaced_evenly_and_tokens_are_corrected_by_what_calls_cost() -> None:
    async def begins(limiter: RateLimiter, costs: list[tuple[float, float]]) -> list[float]:
        times = []
        for booked, tokens in costs:
            times.append(await limiter.acquire(booked))
            limiter.release()
            limiter.settle(booked, tokens)
        return [t - times[0] for t in times]

    # 50 a second: the fifth begins 4 / 50 s after the first
    requests = asyncio.run(begins(RateLimiter(9, requests_per_s=50), [(1, 1)] * 5))
    assert requests[-1] == pytest.approx(0.08)
    # 1,000 tokens a second: 100 booked, 20 used, so each waits 20 ms
    tokens = asyncio.run(begins(RateLimiter(9, tokens_per_s=1000), [(100, 20)] * 5))
    assert tokens[-1] == pytest.approx(0.08)


@pytest.mark.usefixtures("_exact_clock")
def test_nobody_begins_while_the_teacher_wants_to_be_left_alone() -> None:
    async def main() -> float:
        limiter = RateLimiter(9)
        begin = time.monotonic()
        limiter.on_overload(begin, 0.1)
        assert limiter.is_paused
        await asyncio.gather(*(limiter.acquire(1) for _ in range(3)))
        return time.monotonic() - begin

    assert asyncio.run(main()) == pytest.approx(0.1)


def test_a_call_that_is_given_up_while_it_waits_is_not_in_flight() -> None:
    async def main() -> int:
        limiter = RateLimiter(9, requests_per_s=0.01)
        await limiter.acquire(1)
        waiting = asyncio.create_task(limiter.acquire(1))
        await asyncio.sleep(0.01)
        assert limiter.in_flight == 2
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return limiter.in_flight

    assert asyncio.run(main()) == 1
