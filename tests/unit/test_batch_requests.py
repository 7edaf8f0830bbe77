"""Several requests in one body."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.service import BODY, World, error_of

BATCH = "/v1/recommend:batch"
KEY = {"Authorization": "Bearer secret"}


def ask(world: World, *requests: dict[str, Any], **options: Any) -> httpx.Response:
    whole = [{**BODY, **one} for one in requests]
    return world.call("POST", BATCH, json={"requests": whole}, **options)


def test_each_request_is_answered_as_if_it_had_come_alone() -> None:
    world = World()
    changes = [{"history": ["Camera"], "top_k": 3}, {"mode": "user"}, {"seed": 5, "mode": "fast"}]
    results = ask(world, *changes).json()["results"]
    alone = [World().ask(**one).json() for one in changes]
    for found in (*results, *alone):
        del found["latency_ms"]
    assert results == alone


def test_a_refused_request_has_its_error_in_its_place_and_takes_nothing_from_the_others() -> None:
    world = World()
    response = ask(world, {}, {"candidates": ["Lens", "lens"]}, {"seed": 3})
    first, second, third = response.json()["results"]
    assert response.status_code == 200
    assert first["item"] == third["item"] == "Rope"
    assert second["error"]["field"] == "candidates[1]"
    figures = world.call("GET", "/metrics").text
    assert 'msrrec_requests_total{status="200"} 2.0' in figures
    assert 'msrrec_requests_total{status="422"} 1.0' in figures


def test_a_request_that_crashes_takes_nothing_from_the_others() -> None:
    world = World()

    async def fail() -> None:
        raise RuntimeError("secret")

    world.user.before = fail
    response = ask(world, {"mode": "user"}, {"mode": "item"})
    crashed, answered = response.json()["results"]
    assert (crashed["error"]["type"], answered["item"]) == ("internal_error", "Rope")
    assert "secret" not in response.text


def test_all_requests_of_a_batch_are_at_work_at_once() -> None:
    world, waiting = World(), asyncio.Event()

    async def wait() -> None:
        if len(world.user.requests) == 5:
            waiting.set()
        async with asyncio.timeout(5):
            await waiting.wait()

    world.user.before = wait
    results = ask(world, *({"seed": n, "mode": "user"} for n in range(5))).json()["results"]
    assert [one["item"] for one in results] == ["Rope"] * 5


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "requests"),
        ([BODY] * 4, "requests"),
        ([BODY, {**BODY, "stream": True}], "requests[1].stream"),
        ([BODY, {**BODY, "candidates": ["Lens"]}], "requests[1].candidates"),
        (["Lens"], "requests[0]"),
    ],
)
def test_what_is_no_batch_is_refused_with_the_field_named(
    requests: list[object], field: str
) -> None:
    world = World(max_batch_size=3)
    response = world.call("POST", BATCH, json={"requests": requests})
    assert (response.status_code, error_of(response)["field"]) == (422, field)
    assert not world.user.requests


def test_a_batch_counts_as_its_requests_towards_the_rate_of_its_key() -> None:
    world = World(key="secret", requests_per_minute=5)
    assert ask(world, *({"seed": n} for n in range(5)), headers=KEY).status_code == 200
    refused = ask(world, {}, headers=KEY)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 1
    assert ask(world, {}).status_code == 401
