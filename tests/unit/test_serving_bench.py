"""The arithmetic of the benchmark of the service: arrivals, loops, quantiles, goodput, options."""

import asyncio
import math
import time

import aiohttp
import pytest

from bench.load import Seen, closed_loop, goodput, open_loop, poisson_times, quantile
from bench.page import summarize
from bench.record import Row
from bench.serving_answers import flatten, unflatten
from bench.serving_parts import SYSTEMS, describe_flood, describe_latency, turns
from bench.serving_result import lesser_capacity, make_result
from bench.serving_systems import Question, Service, is_answer, to_flags
from msrrec.engines.loopback import serve_on_loopback
from msrrec.reasoning.encoding import AnswerChoice, Query
from tests.support.clock import run_at_once
from tests.support.service import World


def test_arrivals_are_seeded_and_come_at_their_rate() -> None:
    times = poisson_times(50, 200, 1)
    assert times == poisson_times(50, 200, 1) != poisson_times(50, 200, 2)
    assert times == sorted(times)
    assert times[-1] < 200
    assert len(times) == pytest.approx(10_000, abs=300)  # three standard deviations


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (0.0, 1.0)])
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value


def test_there_is_no_quantile_of_nothing() -> None:
    assert math.isnan(quantile([], 0.5))


def test_goodput_counts_right_answers_in_time_within_the_window() -> None:
    seen = [
        Seen(0, 2, 200),
        Seen(1, 4, 200),  # late
        Seen(2, 3, 503),
        Seen(3, 3.5, 200, is_wrong=True),
        Seen(8, 9, 200),
        Seen(9, 10, 200),  # after the window
    ]
    assert goodput(seen, 1, 10, 2.0) == pytest.approx(2 / 9)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    async def go() -> list[float]:
        loop = asyncio.get_running_loop()
        begun = loop.time()

        async def act(number: int, begin: float) -> float:
            came = loop.time() - begun
            await asyncio.sleep(100)
            return came

        return await open_loop([0.0, 0.01, 0.02], act)

    assert max(run_at_once(go())) < 100


def test_a_closed_loop_has_a_request_a_client_under_way() -> None:
    under_way, most = 0, 0

    async def act(number: int, begin: float) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return number

    found = asyncio.run(closed_loop(3, 0.05, act))
    assert most == 3
    assert sorted(found) == list(range(len(found)))


def test_what_was_refused_late_or_wrong_is_told_apart() -> None:
    seen = [
        Seen(0.0, 0.5, 200),  # before the window
        Seen(1.0, 1.01, 503),
        Seen(1.1, 1.4, 503),
        Seen(1.2, 2.2, 200),
        Seen(1.3, 4.0, 200),  # later than its deadline
        Seen(1.4, 3.4, 504),
        Seen(1.5, 1.6, 200, is_wrong=True),
        Seen(1.6, 1.7, 500),
    ]
    found = describe_flood(seen, 1.0, 5.0, 2.0)
    assert found["goodput_per_s"] == pytest.approx(1 / 4)
    assert (found["requests"], found["refused"], found["refused_after_50_ms"]) == (7, 2, 1)
    assert found["refused_p50_ms"] == pytest.approx(10)
    assert (found["late"], found["wrong"], found["failed"]) == (2, 1, 1)


def test_streams_are_measured_by_their_first_word() -> None:
    seen = [Seen(0, 1, 200), Seen(0, 9, 200, first=0.25), Seen(1, 3, 200), Seen(2, 2.5, 503)]
    found = describe_latency(seen)
    assert (found["p50_s"], found["p99_s"], found["first_p50_s"]) == (1, 2, 0.25)
    assert (found["requests"], found["failed"]) == (4, 1)


def test_a_system_runs_on_for_rounds_in_a_row() -> None:
    order = ("ours", "peer", "peer", "ours")
    assert turns(order) == [("ours", [0]), ("peer", [0, 1]), ("ours", [1])]


def test_bound_answers_survive_flat_lists() -> None:
    choice = AnswerChoice((5, 6), ((1,), (2, 3)))
    assert unflatten(flatten(choice)) == choice


def test_the_peer_gets_the_options_of_the_services_engines() -> None:
    options = {"model": "m", "max_model_len": 64, "enforce_eager": True}
    flags = to_flags({**options, "enable_chunked_prefill": False, "revision": None})
    text = " ".join(flags)
    assert "--model m" in text
    assert "--max-model-len 64" in text
    assert "--enforce-eager --no-enable-chunked-prefill" in text
    assert "revision" not in text


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_reads_the_services_own_answers(stream: bool) -> None:
    world = World()
    query = Query("request", "Electronics", ("Camera",), ("Lens", "Rope", "Kettle"))
    question = Question(query, world.api.fan_out.recommender)

    async def ask(url: str) -> Seen:
        async with aiohttp.ClientSession() as client:
            system = Service(url)
            return await system.ask(client, question, 0.0, time.perf_counter(), stream=stream)

    with serve_on_loopback(world.app) as url:
        seen = asyncio.run(ask(url))
    assert (seen.status, seen.item, seen.is_wrong) == (200, "Rope", False)
    assert (seen.first is not None) == stream
    assert seen.done >= (seen.first or 0) > 0 or not stream


def test_an_answer_to_another_request_is_wrong() -> None:
    query = Query("request", "Electronics", ("Camera",), ("Lens", "Rope"))
    assert is_answer({"index": 1, "item": "Rope", "sides": {}}, query)
    assert is_answer({"index": None, "item": None, "sides": {}}, query)
    assert not is_answer({"index": 1, "item": "Kettle", "sides": {}}, query)
    assert not is_answer({"index": 7, "item": "Rope", "sides": {}}, query)
    assert not is_answer({}, query)


def rounds(**figures: tuple[list[float], list[float]]) -> dict[str, list[dict[str, float]]]:
    """What both systems had in each round."""
    found = {}
    for n, name in enumerate(SYSTEMS):
        by_round = zip(*(both[n] for both in figures.values()), strict=True)
        found[name] = [dict(zip(figures, row, strict=True)) for row in by_round]
    return found


def test_a_result_sets_each_round_beside_the_peers() -> None:
    costs = {"cpu_ms": ([150.0, 90.0], [100.0, 100.0]), "others_cores": ([0.0, 0.0], [0.0, 0.1])}
    used = {"cores": ([1.0, 1.0], [2.0, 2.0]), "idle_cores": ([0.1, 0.1], [0.1, 0.1])}
    capacity = rounds(
        requests_per_s=([9.0, 8.0], [10.0, 10.0]), pss_mib=([2.0, 2.0], [1.0, 1.0]), **costs, **used
    )
    seconds = {key: ([0.55, 0.5], [0.5, 0.5]) for key in ("p50_s", "first_p50_s", "first_p99_s")}
    latency = rounds(p99_s=([2.2, 2.6], [2.0, 2.0]), requests=([7, 9], [7, 9]), **seconds, **costs)
    agreement = {"checked": 20, "same": 19}
    result = make_result(
        {
            "capacity": {"rounds": capacity, "agreement": agreement},
            "latency": {"rate": 7.0, "rounds": latency},
        }
    )
    told = {row["what"]: row for row in map(Row.to_json, result.rows)}
    requests = told["online requests a second"]
    assert (requests["ratio"], requests["spread"]) == (pytest.approx(0.85), [0.8, 0.9])
    assert requests["met"] is False
    assert told["online answer at 70% of capacity, p50"]["met"] is True
    assert told["online answer at 70% of capacity, p50"]["ours"] == [550, 500]
    assert told["online answer at 70% of capacity, p99"]["met"] is False
    assert (result.rounds, result.notes["same"], result.notes["latency_requests"]) == (2, 19, 16)
    assert result.notes["others_cores_at_most"] == 0.1
    assert lesser_capacity({"rounds": capacity}) == 8.5


def test_a_result_holds_goodput_against_the_peak_in_time() -> None:
    flood = describe_flood([Seen(1, 2, 200), Seen(1, 1.02, 503)], 0, 4, 2.0)
    flood |= {"deadline": "short", "deadline_s": 2.0, "load": 3.0, "of_peak": 0.9}
    flood |= {"peak_in_time": 9.0, "others_cores": 0.1}
    loads = {"service_s": 0.4, "full_line_s": 32.0, "loads": [flood]}
    result = make_result({"overload": loads}, "two engines")
    assert [row.to_json()["met"] for row in result.rows] == [True]
    assert [row.what.endswith("with short, two engines") for row in result.rows] == [True]
    (shown,) = result.tables["overload"].rows
    assert " | ".join(shown) == (
        "short, 2.00 s | 3 x | 0.25 | 9.00 | 1 of 2 | 20, 20 | 0 | 0 | 0 | 0.10"
    )
    assert "goodput at 3 times" in summarize(result)
