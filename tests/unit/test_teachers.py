"""Shares, retries, back-pressure and fall-back among several teachers."""

import asyncio
from collections.abc import Callable

import pytest

from msrrec.chat.completions import Completion
from msrrec.chat.failures import CallFailed, TryAgain
from msrrec.config import EndpointConfig
from msrrec.errors import EngineError
from msrrec.synthesis import teachers as module
from msrrec.synthesis.rate_limiter import RateLimiter
from msrrec.synthesis.teachers import Teacher, Teachers, cost_of, teacher_name

Behave = Callable[[int], None]


class FakeClient:
    """Answers after a moment; ``behave`` raises what the n-th call (from 1) should."""

    def __init__(self, behave: Behave = lambda n: None, capacity: int = 1000) -> None:
        self.behave, self.capacity = behave, capacity
        self.calls = self.in_flight = self.most = self.refused = 0

    async def complete(self, prompt: str, attempt: int) -> Completion:
        self.calls += 1
        if self.in_flight >= self.capacity:
            self.refused += 1
            raise TryAgain("429", wait_s=0.02, is_overloaded=True, is_throttled=True)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0.005)
            self.behave(self.calls)
        finally:
            self.in_flight -= 1
        usage = {"prompt_tokens": 10, "completion_tokens": 10}
        return Completion("text", None, "stop", usage, "fake", 0.005)

    async def close(self) -> None:
        pass


def build(*clients: FakeClient, weights: tuple[float, ...] = (), most: int = 16) -> Teachers:
    found = []
    for n, client in enumerate(clients):
        weight = weights[n] if weights else 1.0
        endpoint = EndpointConfig(base_url=f"http://{n}/v1", model=f"m{n}", weight=weight)
        found.append(Teacher(endpoint, client, RateLimiter(most)))
    return Teachers(found, max_retries=2)


def ask_many(teachers: Teachers, count: int) -> list[tuple[str, int] | BaseException]:
    """The model and tries of each call, or what it raised."""

    async def one() -> tuple[str, int]:
        teacher, _, tries = await teachers.complete("prompt", 0)
        return teacher.endpoint.model, tries

    async def main() -> list[tuple[str, int] | BaseException]:
        return await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.01)


def test_calls_are_shared_by_weight_while_all_have_room() -> None:
    small, large = FakeClient(), FakeClient()
    ask_many(build(small, large, weights=(1, 3), most=100), 100)
    assert (small.calls, large.calls) == (25, 75)


def test_no_more_calls_are_in_flight_than_allowed() -> None:
    client = FakeClient()
    assert len(ask_many(build(client, most=4), 40)) == 40
    assert client.most == 4


def test_a_teacher_that_throttles_is_asked_less_and_loses_no_call() -> None:
    client = FakeClient(capacity=5)
    outcomes = ask_many(build(client, most=64), 200)
    assert all(isinstance(outcome, tuple) for outcome in outcomes)
    assert client.refused < 200


def test_a_failed_try_goes_to_the_other_teacher_at_once() -> None:
    def break_off(n: int) -> None:
        raise TryAgain("connection lost")

    broken, good = FakeClient(break_off), FakeClient()
    outcomes = ask_many(build(broken, good), 20)
    assert {outcome[0] for outcome in outcomes if isinstance(outcome, tuple)} == {"m1"}
    assert good.calls == 20


def test_a_teacher_that_refuses_is_left_and_the_last_one_ends_the_run() -> None:
    def refuse(n: int) -> None:
        raise EngineError("wrong key")

    good = FakeClient()
    assert all(isinstance(o, tuple) for o in ask_many(build(FakeClient(refuse), good), 50))
    assert good.calls == 50
    first, second = FakeClient(refuse), FakeClient(refuse)
    outcomes = ask_many(build(first, second, most=2), 50)
    assert all(isinstance(outcome, EngineError) for outcome in outcomes)
    assert (first.calls, second.calls) == (2, 2)  # those in flight; the others ended unasked


def test_a_call_that_one_teacher_can_not_answer_is_put_to_the_other() -> None:
    def too_long(n: int) -> None:
        raise CallFailed("too long")

    outcomes = ask_many(build(FakeClient(too_long), FakeClient()), 4)
    assert {outcome[0] for outcome in outcomes if isinstance(outcome, tuple)} == {"m1"}
    both = ask_many(build(FakeClient(too_long), FakeClient(too_long)), 4)
    assert all(isinstance(outcome, CallFailed) for outcome in both)


def test_tries_are_counted_and_limited() -> None:
    def fail_twice(n: int) -> None:
        if n < 3:
            raise TryAgain("500")

    def fail(n: int) -> None:
        raise TryAgain("500")

    assert ask_many(build(FakeClient(fail_twice)), 1) == [("m0", 3)]
    client = FakeClient(fail)
    (outcome,) = ask_many(build(client), 1)
    assert "no completion after 3 tries: 500" in str(outcome)
    assert client.calls == 3


def test_an_address_where_nobody_listens_is_an_engine_error_before_any_answer() -> None:
    def refuse(n: int) -> None:
        raise TryAgain("connection refused", is_refused=True)

    (outcome,) = ask_many(build(FakeClient(refuse)), 1)
    assert isinstance(outcome, EngineError)
    assert "http://0/v1: no server answers there" in str(outcome)


def test_an_answer_costs_what_the_api_says_or_the_price_table() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 500}
    priced = EndpointConfig(prompt_price=2.0, completion_price=8.0)
    assert cost_of(priced, usage) == pytest.approx(0.006)  # 1000 x 2 + 500 x 8, per million
    assert cost_of(EndpointConfig(), usage) is None
    assert cost_of(EndpointConfig(), {**usage, "cost": 0.5}) == 0.5
    assert cost_of(priced, {**usage, "cost": "free"}) == pytest.approx(0.006)


def test_a_teachers_name_holds_no_password() -> None:
    endpoint = EndpointConfig(base_url="https://me:secret@api.example:8/v1", model="m")
    assert teacher_name(endpoint) == "m at api.example:8/v1"
