"""Requests are taken if they can be answered in time, beyond the service's capacity too."""

import asyncio
import random
import statistics

import pytest

from serve.pace import Pace, weighted_quantile
from tests.support.clock import run_at_once
from tests.support.load import Answered, Batch, Line, ask, load
from tests.support.service import World


def goodput(answers: list[Answered], *, since: float, until: float) -> float:
    """Answers in time a second, among the requests that came in between."""
    good = [one for one in answers if since <= one.came < until and one.status == 200]
    return len(good) / (until - since)


@pytest.mark.parametrize(
    ("overload", "limits", "changes"),
    [
        (1.5, {"deadline_s": 4}, {}),  # 64 places and a line of 256 take a minute
        (3.0, {"deadline_s": 4}, {}),
        (3.0, {"deadline_s": 60}, {"deadline_ms": 3000}),
        (3.0, {"deadline_s": 4, "max_ongoing_requests": 5}, {}),  # the line is not in the engine
    ],
)
def test_beyond_capacity_as_many_are_answered_in_time_as_at_the_peak(
    overload: float, limits: dict[str, float], changes: dict[str, int]
) -> None:
    peak = 5.0  # five places of a second each
    answers = load(
        World(**limits), lambda: Line(5, 1.0), per_second=overload * peak, seconds=30, **changes
    )
    # The first seconds teach what the service can do.
    assert goodput(answers, since=12, until=30) >= 0.9 * peak
    assert {one.status for one in answers} <= {200, 503, 504}
    refused = [one for one in answers if one.status == 503]
    assert len(refused) > 30 * peak * (overload - 1) / 2
    at_once = [one for one in refused if one.seconds == 0]
    assert len(at_once) >= 0.95 * len(refused)  # the others had a place in the line
    assert statistics.median(one.real_seconds for one in at_once) < 0.05
    assert all(1 <= int(one.headers["retry-after"]) <= 60 for one in refused)
    late = [one for one in answers if one.status == 504]
    assert len(late) <= 0.1 * len(answers)
    assert all("retry-after" in one.headers for one in late)


def test_a_batch_stays_full_while_a_line_waits() -> None:
    """Where more at once do more in a second, taking fewer as the line grows would be wrong."""

    async def go() -> list[Answered]:
        world, chance, asked = World(deadline_s=60), random.Random(0), []
        world.user.before, loop = Batch(), asyncio.get_running_loop()
        while loop.time() < 40:
            asked.append(asyncio.create_task(ask(world, mode="user", deadline_ms=8700)))
            await asyncio.sleep(chance.expovariate(30))
        return await asyncio.gather(*asked)

    answers = run_at_once(go())
    peak = Batch.peak(64)
    done = [one.came + one.seconds for one in answers if one.status == 200]
    assert sum(15 <= one < 40 for one in done) / 25 >= 0.95 * peak
    refused = [one for one in answers if one.status == 503]
    waited = [one for one in refused if one.seconds > 0.05]
    assert len(waited) < 0.05 * len(refused)


def test_a_service_that_was_stuck_takes_requests_again_soon_after() -> None:
    async def go() -> list[int]:
        world = World(deadline_s=2)
        engine = world.user.before = Line(2, 0.2)
        for seconds, count in ((0.2, 12), (9.0, 40)):  # the second are all late
            engine.seconds = seconds
            await asyncio.gather(*(ask(world, mode="user") for _ in range(count)))
        engine.seconds = 0.2
        answers = []
        for _ in range(60):
            answers.append(asyncio.create_task(ask(world, mode="user")))
            await asyncio.sleep(0.2)  # half of what it can do
        return [one.status for one in await asyncio.gather(*answers)]

    assert run_at_once(go())[25:] == [200] * 35  # five seconds later


def test_clients_in_too_great_a_hurry_change_nothing_for_the_others() -> None:
    async def go() -> tuple[list[int], int]:
        world = World(deadline_s=20)
        world.user.before = Line(8, 1.0)
        await asyncio.gather(*(ask(world, mode="user") for _ in range(8)))
        for _ in range(100):
            await ask(world, mode="user", deadline_ms=1)
        patient = await asyncio.gather(*(ask(world, mode="user") for _ in range(16)))
        return [one.status for one in patient], world.api.admission.limit

    assert run_at_once(go()) == ([200] * 16, 64)


def test_a_waiting_request_that_can_no_longer_be_answered_leaves_at_once() -> None:
    async def go() -> tuple[Answered, int]:
        world = World(deadline_s=100, max_ongoing_requests=1)
        engine = world.user.before = Line(1, 1.0)
        await ask(world, mode="user")  # a request takes a second
        engine.seconds = 50
        held = asyncio.create_task(ask(world, mode="user"))
        await asyncio.sleep(0.5)
        short = await ask(world, mode="user", deadline_ms=5000)
        ended = world.api.admission.queued
        held.cancel()
        return short, ended

    short, queued = run_at_once(go())
    assert (short.status, queued) == (503, 0)
    assert short.seconds == pytest.approx(4, abs=0.01)  # a second is all that it would need


def test_a_request_that_would_just_be_in_time_after_its_wait_is_refused_at_once() -> None:
    async def go(seconds: float) -> Answered:
        world = World(deadline_s=100, max_ongoing_requests=1)
        world.user.before = Line(1, 1.0)
        await ask(world, mode="user")
        held = [asyncio.create_task(ask(world, mode="user", seed=n)) for n in range(4)]
        await asyncio.sleep(0)
        found = await ask(world, mode="user", seed=9, deadline_ms=int(1000 * seconds))
        for one in held:
            one.cancel()
        return found

    just, spare = run_at_once(go(5.2)), run_at_once(go(5.6))  # its answer would take 5 s
    assert (just.status, just.seconds) == (503, 0)
    assert (spare.status, spare.seconds) == (200, pytest.approx(5))


def test_a_deadline_that_no_answer_can_meet_is_named() -> None:
    async def go() -> Answered:
        world = World()
        world.user.before = Line(2, 1.0)
        await ask(world, mode="user")
        other = asyncio.create_task(ask(world, mode="user"))
        await asyncio.sleep(0)
        hurried = await ask(world, mode="user", deadline_ms=500)
        await other
        return hurried

    hurried = run_at_once(go())
    assert (hurried.status, hurried.seconds) == (503, 0)
    assert "deadline_ms: 0.50 s are left, and the fastest answers" in hurried.text


def test_the_deadline_of_a_request_is_at_most_that_of_the_service() -> None:
    async def go(milliseconds: int) -> float:
        world = World(deadline_s=3)
        world.user.before = Line(1, 60)
        answer = await ask(world, mode="user", deadline_ms=milliseconds)
        assert answer.status == 504
        return answer.seconds

    assert run_at_once(go(2000)) == pytest.approx(2)
    assert run_at_once(go(9000)) == pytest.approx(3)
    assert World().ask(deadline_ms=0).status_code == 422


def test_health_and_figures_are_answered_while_the_service_is_full() -> None:
    async def go() -> list[int]:
        world = World(max_ongoing_requests=1, max_queued_requests=1)
        world.user.before = Line(1, 1000)
        held = [asyncio.create_task(ask(world, mode="user")) for _ in range(2)]
        while world.api.admission.queued == 0:
            await asyncio.sleep(0)
        assert (await ask(world, mode="user")).status == 503
        async with world.client() as client:
            found = [await client.get(path) for path in ("/healthz", "/readyz", "/metrics")]
        for one in held:
            one.cancel()
        return [one.status_code for one in found]

    assert run_at_once(go()) == [200] * 3


def test_a_pace_predicts_by_what_others_need_and_by_who_is_before() -> None:
    pace = Pace()
    assert (pace.predict("user", 99), pace.drain(99)) == (0, 0)
    for _ in range(20):
        pace.add("user", 2.0, 1, now=0)
    assert pace.predict("user", 99) == 2.0  # nothing shows that more at once take longer
    assert pace.drain(6, places=4) == pytest.approx(3)  # 4 at once, 2 s each
    for _ in range(60):
        pace.add("user", 8.0, 16, now=0)
    assert pace.drain(10) == pytest.approx(5, rel=0.02)  # 16 in 8 s
    assert pace.predict("user", 20) == pytest.approx(10, rel=0.05)
    assert pace.predict("user", 1) == pytest.approx(2, rel=0.05)
    assert pace.predict("direct", 20) == 0


def test_a_weighted_quantile_hears_the_newest_first() -> None:
    # Weights .81, .9 and 1 of 2.71: the quantile .6 is reached with 5 and 1 (1.81), not with 1.
    assert weighted_quantile([9.0, 5.0, 1.0], 0.6) == 5.0
    assert weighted_quantile([9.0, 5.0, 1.0], 0.3) == 1.0
    assert weighted_quantile([1.0], 0.9) == 1.0
