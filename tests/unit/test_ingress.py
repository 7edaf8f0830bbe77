"""The HTTP API over engines of the test's own, without Ray: every status, and what is behind it."""

import asyncio
import json
import math
from typing import Any

import httpx
import pytest

from msrrec.config import InferenceConfig
from msrrec.errors import EngineError
from serve.fan_out import Delta, SentText
from serve.routing import WAITED
from tests.support.clock import run_at_once
from tests.support.service import (
    ASK,
    BODY,
    World,
    assembled,
    error_of,
    events_of,
    outlast_any_deadline,
)


@pytest.fixture
def world() -> World:
    return World()


def test_the_answer_is_the_documented_one(world: World) -> None:
    response = world.ask()
    answer = response.json()
    assert response.status_code == 200
    assert list(answer) == [
        "item", "id", "index", "ranking", "side", "agreement", "reasoning", "perplexity",
        "confidence", "sides", "source", "retrieved", "history_used", "model", "usage",
        "latency_ms",
    ]  # fmt: skip
    assert (answer["item"], answer["index"], answer["agreement"]) == ("Rope", 1, "agree")
    assert answer["side"] == "user"  # exp(0.5) < exp(1), and agreeing sides take the lower one
    assert answer["perplexity"] == pytest.approx(math.exp(0.5))
    assert answer["sides"]["item"]["perplexity"] == pytest.approx(math.e)
    assert answer["reasoning"] == "It is Rope."
    assert (answer["history_used"], answer["model"]) == (1, {"name": "tiny", "version": "v1"})
    text_length = len("It is Rope.\n[reasoning_end]\n(2) Rope")
    assert answer["sides"]["user"]["num_tokens"] == text_length
    assert answer["usage"]["completion_tokens"] == 2 * text_length
    prompts = [len(engine.requests[0].prompt_ids) for engine in (world.user, world.item)]
    assert answer["usage"]["prompt_tokens"] == sum(prompts)


@pytest.mark.parametrize("stream", [False, True])
def test_the_other_candidates_are_ranked_by_likelihood_if_wanted(
    world: World, stream: bool
) -> None:
    response = world.ask(top_k=2, stream=stream)
    answer = events_of(response)[-1][1] if stream else response.json()
    # Fusion chooses the second; of the others the third is likeliest.
    assert [(row["item"], row["index"]) for row in answer["ranking"]] == [
        ("Rope", 1),
        ("Kettle", 2),
    ]
    assert [row["score"] for row in answer["ranking"]] == pytest.approx([2 / 7, 4 / 7])
    assert [len(engine.requests) for engine in (world.user, world.item)] == [2, 2]


def test_one_item_alone_is_not_scored(world: World) -> None:
    assert world.ask().json()["ranking"] == [
        {"item": "Rope", "id": None, "index": 1, "score": None}
    ]
    assert [len(engine.requests) for engine in (world.user, world.item)] == [1, 1]


def test_a_service_with_a_temperature_says_how_sure_it_is() -> None:
    # The second of three has 2/7 on both sides; square roots of 1, 2 and 4 at temperature 2.
    assert World(temperature=1.0).ask().json()["confidence"] == pytest.approx(2 / 7)
    sure = World(temperature=2.0).ask().json()["confidence"]
    assert sure == pytest.approx(2**0.5 / (1 + 2**0.5 + 2))
    assert World().ask().json()["confidence"] is None


def test_a_lost_engine_is_asked_again_for_the_ranking(world: World) -> None:
    async def die_when_ranking() -> None:
        if world.user.requests[-1].next_ids and len(world.user.requests) == 2:
            world.user.deaths = 1

    world.user.before = die_when_ranking
    assert len(world.ask(top_k=3).json()["ranking"]) == 3
    assert len(world.user.requests) == 3


def test_differing_sides_take_the_higher_perplexity(world: World) -> None:
    world.user.choice = 3
    answer = world.ask().json()
    assert (answer["item"], answer["side"], answer["agreement"]) == ("Rope", "item", "differ")


def test_both_sides_are_in_flight_at_once(world: World) -> None:
    async def go() -> int:
        barrier = asyncio.Barrier(2)  # passed only by two at a time

        async def meet() -> None:
            await barrier.wait()

        world.user.before = world.item.before = meet
        async with world.client() as client:
            return (await client.post(ASK, json=BODY)).status_code

    assert asyncio.run(asyncio.wait_for(go(), 30)) == 200


@pytest.mark.parametrize("mode", ["user", "full", "direct"])
def test_a_single_chain_asks_one_engine(world: World, mode: str) -> None:
    answer = world.ask(mode=mode).json()
    assert list(answer["sides"]) == [mode]
    assert (answer["agreement"], answer["side"]) == ("one_valid", mode)
    assert (len(world.user.requests), len(world.item.requests)) == (1, 0)


def test_the_same_request_gets_the_same_seeds_and_another_seed_others(world: World) -> None:
    for changes in ({}, {}, {"seed": 5}):
        world.ask(**changes)
    first, again, other = (request.seed for request in world.user.requests)
    assert first == again != other


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b'{"history": [', "body"),
        (b"", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b'{"history": ["a"]}', "candidates"),
        (b'{"history": ["a"], "candidates": ["b", 7]}', "candidates[1]"),
        (b'{"history": ["a"], "candidates": ["b", "\\ud800"]}', "candidates[1]"),
        (b'{"history": ["a"], "candidates": ["b", "c"], "mode": "x"}', "mode"),
        (b'{"history": ["a"], "candidates": ["b", "c"], "n": 1}', "n"),
        (b'{"history": ["a"], "candidates": ["b", "c"], "seed": 1e999}', "seed"),
        (b'{"history": ["a"], "candidates": ["b", "c"], "stream": 0}', "stream"),
        (b'{"history": ["a"], "candidates": ["b", "c"], "top_k": "2"}', "top_k"),
    ],
)
def test_what_is_not_a_request_is_refused_with_the_field_named(
    world: World, content: bytes, field: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = world.call("POST", ASK, content=content, headers=headers)
    assert response.status_code == 422
    assert (error_of(response)["type"], error_of(response)["field"]) == ("invalid_request", field)
    assert world.user.requests == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"candidates": ["Lens", "Rope \ud83d"]}, "candidates[1]"),
        ({"history": ["\ude00 Camera"]}, "history[0]"),
        ({"domain": "Shop \ud83d"}, "domain"),
        ({"\ud83d": 1}, "body"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_half_a_character_is_refused_with_the_field_named(
    world: World, changes: dict[str, Any], field: str, stream: bool
) -> None:
    # as JSON.stringify writes a title that slice cut within an emoji
    body = json.dumps({**BODY, "stream": stream, **changes})
    response = world.call("POST", ASK, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert error_of(response)["field"] == field
    whole = json.dumps({**BODY, "candidates": ["Lens", "Rope \U0001f600"]})
    response = world.call("POST", ASK, content=whole, headers={"Content-Type": "application/json"})
    assert response.json()["item"] == "Rope \U0001f600"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_that_are_no_numbers_make_their_side_invalid(
    world: World, stream: bool
) -> None:
    world.user.logprob = math.nan
    response = world.ask(stream=stream)
    assert response.status_code == 200
    assert "NaN" not in response.text
    answer = events_of(response)[-1][1] if stream else response.json()
    assert (answer["side"], answer["agreement"]) == ("item", "one_valid")
    assert not answer["sides"]["user"]["valid"]
    assert answer["sides"]["user"]["perplexity"] is None


def test_ten_thousand_candidates_are_refused_at_once(world: World) -> None:
    response = world.ask(candidates=[f"Item {n}" for n in range(10_000)])
    assert response.status_code == 422
    assert "found 10000; expected at most 100" in error_of(response)["message"]


def test_a_prompt_longer_than_the_model_allows_is_refused(world: World) -> None:
    titles = [f"{n} " + "x" * 150 for n in range(60)]  # 60 × 156 characters > 8000 - 1024
    response = world.ask(candidates=titles)
    assert response.status_code == 422
    assert error_of(response)["field"] == "candidates"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_how_many_purchases_its_prompts_show(world: World, stream: bool) -> None:
    # The prompts have room for 8000 - 1024 characters, and a purchase takes over 700 of them.
    response = world.ask(history=[f"{n} " + "x " * 79 + "y" * 600 for n in range(200)])
    short = world.ask(history=["Camera", "Tripod"], stream=stream)
    used = response.json()["history_used"]
    prompt = "".join(map(chr, world.item.requests[0].prompt_ids))
    assert 0 < used < 200
    assert sum(f"\n- {n} x" in prompt or f" {n} x" in prompt for n in range(200)) == used
    answer = events_of(short)[-1][1] if stream else short.json()
    assert answer["history_used"] == 2


def test_unknown_paths_and_methods_get_json(world: World) -> None:
    assert error_of(world.call("GET", "/nothing"))["type"] == "not_found"
    response = world.call("GET", ASK)
    assert response.status_code == 405
    assert error_of(response)["type"] == "method_not_allowed"


def test_past_the_deadline_the_client_is_told_and_the_engines_stop(world: World) -> None:
    world.item.before = outlast_any_deadline
    response = world.ask()
    assert response.status_code == 504
    assert error_of(response)["type"] == "deadline_exceeded"
    assert world.item.cancelled == 1
    assert world.api.admission.ongoing == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_engine_is_asked_again(world: World, stream: bool) -> None:
    world.user.deaths = 2
    response = world.ask(stream=stream)
    assert response.status_code == 200
    answer = events_of(response)[-1][1] if stream else response.json()
    assert answer["item"] == "Rope"
    assert len(world.user.requests) == 3
    assert {request.seed for request in world.user.requests} == {world.user.requests[0].seed}
    metrics = world.call("GET", "/metrics").text
    assert 'msrrec_engine_retries_total{side="user"} 2.0' in metrics


def test_an_engine_lost_too_often_ends_in_a_503(world: World) -> None:
    world.user.deaths = 99
    response = world.ask()
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert len(world.user.requests) == 4


def test_an_engines_refusal_and_a_bug_say_nothing_of_the_inside(world: World) -> None:
    async def refuse() -> None:
        raise EngineError("secret path /models/x")

    async def crash() -> None:
        raise ZeroDivisionError("secret value")

    for failure, kind in ((refuse, "engine_error"), (crash, "internal_error")):
        world.user.before = failure
        response = world.ask()
        assert response.status_code == 500
        assert error_of(response)["type"] == kind
        assert "secret" not in response.text


def test_one_requests_failure_leaves_the_others_theirs(world: World) -> None:
    async def go() -> list[httpx.Response]:
        async with world.client() as client:
            bodies = [
                {**BODY, "candidates": [f"One {n}", f"Two {n}" if n % 3 else "", f"Three {n}"]}
                for n in range(60)
            ]
            return await asyncio.gather(*(client.post(ASK, json=body) for body in bodies))

    for n, response in enumerate(asyncio.run(go())):
        if n % 3:
            assert response.json()["item"] == f"Two {n}"
            assert response.json()["sides"]["item"]["reasoning"] == f"It is Two {n}."
        else:
            assert response.status_code == 422
            assert error_of(response)["field"] == "candidates[1]"


def test_a_stream_is_deltas_of_both_sides_and_then_the_whole_answer(world: World) -> None:
    response = world.ask(stream=True)
    events = events_of(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in events[:-1]] == ["delta"] * (len(events) - 1)
    assert events[-1][0] == "result"
    for side in ("user", "item"):
        assert assembled(events, side) == "It is Rope.\n[reasoning_end]\n(2) Rope"
    whole = world.ask().json()
    streamed = events[-1][1]
    assert {**streamed, "latency_ms": 0} == {**whole, "latency_ms": 0}


def test_a_stream_past_the_deadline_ends_in_an_error_event(world: World) -> None:
    world.item.before = outlast_any_deadline
    events = events_of(world.ask(stream=True))
    assert events[-1][0] == "error"
    assert events[-1][1]["error"]["type"] == "deadline_exceeded"
    assert world.item.cancelled == 1
    assert world.api.admission.ongoing == 0


@pytest.mark.parametrize(("waited", "status"), [("59.9", 504), ("x", 200), ("nan", 200)])
def test_what_other_replicas_took_of_the_time_counts(waited: str, status: int) -> None:
    async def work() -> None:
        await asyncio.sleep(1)

    async def go() -> int:
        world = World(deadline_s=60)
        world.user.before = work
        headers = {WAITED.decode(): waited}
        async with world.client() as client:
            return (await client.post(ASK, json=BODY, headers=headers)).status_code

    assert run_at_once(go()) == status


def test_a_client_that_leaves_a_stream_gives_its_place_back(world: World) -> None:
    async def go() -> None:
        async def forever() -> None:
            await asyncio.sleep(60)

        world.user.before = world.item.before = forever
        async with world.client() as client:
            task = asyncio.create_task(client.post(ASK, json={**BODY, "stream": True}))
            while len(world.user.requests) + len(world.item.requests) < 2:
                await asyncio.sleep(0.001)
            assert world.api.admission.ongoing == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert world.api.admission.ongoing == 0
            assert world.user.cancelled == world.item.cancelled == 1

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_side_that_fails_ends_the_other(world: World, stream: bool) -> None:
    async def go() -> None:
        async def refuse() -> None:
            await asyncio.sleep(0.01)
            raise EngineError("no")

        async def forever() -> None:
            await asyncio.sleep(60)

        world.user.before, world.item.before = refuse, forever
        async with world.client() as client:
            response = await client.post(ASK, json={**BODY, "stream": stream})
            assert "engine_error" in response.text
            assert world.item.cancelled == 1
            assert world.api.admission.ongoing == 0

    asyncio.run(asyncio.wait_for(go(), 30))


def test_an_exception_that_nobody_expected_ends_a_stream_in_an_error_event(world: World) -> None:
    async def fail() -> None:
        raise RuntimeError("secret")

    world.item.before = fail
    response = world.ask(stream=True)
    name, data = events_of(response)[-1]
    assert (name, data["error"]["type"]) == ("error", "internal_error")
    assert "secret" not in response.text
    assert world.api.admission.ongoing == 0


def test_a_method_that_a_path_has_not_is_told_those_that_it_has(world: World) -> None:
    response = world.call("GET", ASK)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_readiness_follows_the_engines_and_health_does_not(world: World) -> None:
    assert world.call("GET", "/readyz").status_code == 200
    world.readiness = "starting"
    starting = world.call("GET", "/readyz")
    assert (starting.status_code, starting.json()) == (503, {"status": "starting"})
    assert int(starting.headers["retry-after"]) >= 1
    assert world.call("GET", "/healthz").json() == {"status": "ok"}
    assert world.call("HEAD", "/healthz").status_code == 200
    assert world.call("HEAD", "/readyz").status_code == 503


def test_the_figures_count_requests_by_status_tokens_and_agreement(world: World) -> None:
    usage = world.ask().json()["usage"]
    world.ask(candidates=["same", "same"])
    text = world.call("GET", "/metrics").text
    assert 'msrrec_requests_total{status="200"} 1.0' in text
    assert 'msrrec_requests_total{status="422"} 1.0' in text
    assert (
        f'msrrec_tokens_total{{kind="completion",version="v1"}} {usage["completion_tokens"]}.0'
        in text
    )
    assert 'msrrec_agreement_total{agreement="agree",version="v1"} 1.0' in text
    assert 'msrrec_request_seconds_count{mode="fused",source="live",version="v1"} 1.0' in text


def test_the_models_route_names_the_model(world: World) -> None:
    listed = world.call("GET", "/v1/models").json()["data"]
    assert [(entry["id"], entry["max_model_len"]) for entry in listed] == [("tiny", 8000)]
    assert (listed[0]["version"], listed[0]["index"]) == ("v1", None)
    metrics = world.call("GET", "/metrics").text
    assert 'msrrec_model{domain="",name="tiny",version="v1"} 1.0' in metrics


def test_the_page_needs_nothing_from_elsewhere_and_inserts_no_markup(world: World) -> None:
    response = world.call("GET", "/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for forbidden in ("http://", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML",
                      "document.write", "eval("):  # fmt: skip
        assert forbidden not in response.text, forbidden


def test_deltas_hold_back_half_a_character_and_catch_up_after_a_restart() -> None:
    sent = SentText("user")
    assert sent.advance("caf\ufffd") == Delta("user", 0, "caf")
    assert sent.advance("café au") == Delta("user", 3, "é au")
    assert sent.advance("caf") is None  # a second engine at work again
    assert sent.advance("café noir") == Delta("user", 5, "noir")
    assert sent.advance("café", is_final=True) == Delta("user", 4, "")
    assert sent.advance("café", is_final=True) is None


def test_a_routed_query_gets_chains_only_after_an_unsure_answer(world: World) -> None:
    # A direct answer has 36 tokens of probability e^-0.5 each: e^-18 = 1.5e-8 in all.
    world.api.fan_out.recommender.config = InferenceConfig(route_threshold=1e-9)
    sure = world.ask(mode="routed").json()
    assert (sure["item"], sure["side"], list(sure["sides"])) == ("Rope", "direct", ["direct"])
    assert (len(world.user.requests), len(world.item.requests)) == (1, 0)
    world.api.fan_out.recommender.config = InferenceConfig(route_threshold=1e-7)
    unsure = world.ask(mode="routed").json()
    assert (unsure["side"], list(unsure["sides"])) == ("user", ["direct", "user", "item"])
    assert unsure["usage"]["completion_tokens"] == 3 * sure["usage"]["completion_tokens"]
    events = events_of(world.ask(mode="routed", stream=True))
    assert events[-1][0] == "result"
    assert events[-1][1] | {"latency_ms": 0} == unsure | {"latency_ms": 0}
    assert {data["side"] for name, data in events if name == "delta"} == set(unsure["sides"])


def test_a_routed_query_is_refused_by_a_service_without_a_threshold(world: World) -> None:
    response = world.ask(mode="routed")
    assert response.status_code == 422
    error = error_of(response)
    assert error["field"] == "mode"
    assert "inference.route_threshold" in error["message"]
    streamed = events_of(world.ask(mode="routed", stream=True))
    assert [name for name, _ in streamed] == ["error"]
