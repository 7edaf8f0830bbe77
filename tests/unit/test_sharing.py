"""Equal requests are answered once: those in flight together, later ones from the cache."""

import asyncio
from contextvars import ContextVar
from typing import Any

import httpx
import pytest

from msrrec.errors import EngineError
from msrrec.inference.fusion import SideOutput, choose_valid
from msrrec.reasoning.encoding import Query
from serve.fan_out import FanOutResult
from serve.http_models import RecommendRequest
from serve.limits import overloaded
from serve.sharing import Flight, SharedAnswers, identify
from tests.support.service import ASK, BODY, World, assembled, events_of, together


def result(text: str = "") -> FanOutResult:
    output = SideOutput("full", text, "", 0, 2.0, 3)
    return FanOutResult({"full": output}, choose_valid(output), 5, 1)


def fill(shared: SharedAnswers, *pairs: tuple[bytes, FanOutResult]) -> None:
    """Compute some answers one after the other."""

    async def go() -> None:
        for key, value in pairs:

            async def work(flight: Flight, value: FanOutResult = value) -> FanOutResult:
                return value

            flight, begins = shared.join(key, work)
            assert begins
            assert await flight.result() is value
            await flight.leave()

    asyncio.run(go())


def sharing_world(**limits: Any) -> World:
    return World(cache_ttl_s=60, **limits)


def num_asked(world: World) -> tuple[int, int]:
    return len(world.user.requests), len(world.item.requests)


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "latency_ms": 0, "source": ""}


def test_equal_requests_in_flight_are_computed_once() -> None:
    world = sharing_world()
    answers = [one.json() for one in together(world, [{}, {}, {"top_k": 1}])]
    assert [one["source"] for one in answers] == ["live", "joined", "joined"]
    assert num_asked(world) == (1, 1)
    assert without_times(answers[0]) == without_times(answers[1]) == without_times(answers[2])
    metrics = world.call("GET", "/metrics").text
    assert 'msrrec_answers_total{source="joined",version="v1"} 2.0' in metrics
    assert 'msrrec_agreement_total{agreement="agree",version="v1"} 1.0' in metrics


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"mode": "user"},
        {"top_k": 2},
        {"domain": "Shoes"},
        {"history": ["Cameras"]},
        {"candidates": ["Rope", "Lens", "Kettle"]},
    ],
)
def test_requests_that_differ_in_what_decides_are_computed_apart(changes: dict[str, Any]) -> None:
    world = sharing_world()
    answers = together(world, [{}, changes])
    assert [one.json()["source"] for one in answers] == ["live", "live"]


def test_a_later_equal_request_is_answered_from_the_cache_with_its_own_ids_and_top_k() -> None:
    world = sharing_world()
    first = world.ask(top_k=2).json()
    named = [{"id": f"i{n}", "title": title} for n, title in enumerate(BODY["candidates"])]
    again = world.ask(top_k=3, candidates=named).json()
    assert (first["source"], again["source"]) == ("live", "cached")
    assert (again["item"], again["id"], len(again["ranking"])) == ("Rope", "i1", 3)
    assert num_asked(world) == (2, 2)  # once for the answer and once for the ranking
    metrics = world.call("GET", "/metrics").text
    assert 'msrrec_answers_total{source="cached",version="v1"} 1.0' in metrics


def test_a_cached_answer_reaches_a_stream_as_one_result() -> None:
    world = sharing_world()
    whole = world.ask().json()
    events = events_of(world.ask(stream=True))
    assert [name for name, _ in events] == ["result"]
    assert without_times(events[0][1]) == without_times(whole)
    streamed = sharing_world()
    assert assembled(events_of(streamed.ask(stream=True)), "user").startswith("It is Rope.")
    assert streamed.ask().json()["source"] == "cached"


def test_whoever_joins_a_stream_gets_its_result_alone() -> None:
    first, second, third = together(sharing_world(), [{"stream": True}, {"stream": True}, {}])
    assert [name for name, _ in events_of(first)].count("delta") > 2
    assert [name for name, _ in events_of(second)] == ["result"]
    assert events_of(second)[0][1]["source"] == third.json()["source"] == "joined"


def test_without_a_time_to_live_every_request_is_computed() -> None:
    world = World(cache_ttl_s=0)
    assert [one.json()["source"] for one in together(world, [{}, {}])] == ["live", "live"]
    assert num_asked(world) == (2, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_does_not_end_what_another_waits_for(stream: bool) -> None:
    world = sharing_world()

    async def go() -> httpx.Response:
        arrived = asyncio.Event()
        world.user.before = arrived.wait  # type: ignore[assignment]
        async with world.client() as client:
            first = asyncio.create_task(client.post(ASK, json={**BODY, "stream": stream}))
            while not world.user.requests:
                await asyncio.sleep(0.001)
            second = asyncio.create_task(client.post(ASK, json=BODY))
            await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert world.api.admission.ongoing == 1
            arrived.set()
            return await second

    assert asyncio.run(asyncio.wait_for(go(), 30)).json()["item"] == "Rope"
    assert (world.user.cancelled, world.api.admission.ongoing) == (0, 0)
    assert num_asked(world) == (1, 1)


def test_once_all_have_left_the_computation_ends_and_a_newcomer_begins_another() -> None:
    world = sharing_world()

    async def go() -> httpx.Response:
        async def forever() -> None:
            await asyncio.sleep(60)

        world.user.before = forever
        async with world.client() as client:
            tasks = [asyncio.create_task(client.post(ASK, json=BODY)) for _ in range(3)]
            while not world.user.requests:
                await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert (world.user.cancelled, world.api.admission.ongoing) == (1, 0)
            world.user.before = None
            return await client.post(ASK, json=BODY)

    assert asyncio.run(asyncio.wait_for(go(), 30)).json()["source"] == "live"


def test_a_failure_is_told_to_all_who_wait_and_is_not_kept() -> None:
    world = sharing_world()

    async def refuse() -> None:
        raise EngineError("no")

    world.item.before = refuse
    assert [one.status_code for one in together(world, [{}, {}])] == [500, 500]
    world.item.before = None
    assert world.ask().json()["source"] == "live"


def test_who_shared_the_refusal_of_another_asks_for_itself() -> None:
    world = sharing_world()
    world.user.deaths = 4  # as often as an engine is asked for one request
    statuses = {one.status_code for one in together(world, [{}, {}])}
    assert statuses == {503, 200}


def test_a_full_service_answers_what_costs_nothing_and_reads_nothing_else() -> None:
    def refuse(mode: str, deadline: float) -> None:
        raise overloaded()

    async def read(body: RecommendRequest) -> Any:
        raise AssertionError("the text of a refused request is not read")

    world = sharing_world()
    world.ask()
    world.api.admission.check = refuse  # type: ignore[method-assign]
    assert world.ask(stream=True).status_code == world.ask().status_code == 200
    world.api.shop.read = read  # type: ignore[method-assign]
    assert world.ask(seed=9).status_code == 503


def test_answers_are_forgotten_after_their_time_and_the_longest_unused_first() -> None:
    now = [0.0]
    shared = SharedAnswers(2, 1 << 20, 10, lambda: now[0])
    fill(shared, (b"a", result()), (b"b", result()))
    assert shared.find(b"a") is not None
    fill(shared, (b"c", result()))
    assert [shared.find(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    now[0] = 10.0
    assert shared.find(b"a") is None
    assert len(shared) == 1


def test_the_cache_is_bounded_by_bytes() -> None:
    shared = SharedAnswers(100, 10_000, 10)
    fill(shared, (b"a", result("x" * 4_000)), (b"b", result("x" * 4_000)))
    assert len(shared) == 1
    assert 4_000 < shared.num_bytes <= 10_000
    fill(shared, (b"c", result("x" * 20_000)))  # larger than all of it
    assert shared.find(b"b") is not None
    assert shared.find(b"c") is None


def test_a_key_tells_apart_titles_that_only_join_alike() -> None:
    def key(*history: str) -> bytes:
        return identify(Query("q", "d", history, ("x", "y")), "fused", ranked=False, version="v")

    assert key("a", "b") != key("a, b") != key("a", "", "b")
    assert key("a", "b") == key("a", "b")


def test_a_computation_does_not_belong_to_the_context_of_who_began_it() -> None:
    # Ray cancels what was begun in the context of a request whose client has left.
    of_request: ContextVar[str] = ContextVar("of_request", default="nobody")

    async def go() -> str:
        of_request.set("the first")
        seen: list[str] = []

        async def work(flight: Flight) -> FanOutResult:
            seen.append(of_request.get())
            return result()

        flight, _ = SharedAnswers(1, 1, 1).join(b"k", work)
        await flight.result()
        return seen[0]

    assert asyncio.run(go()) == "nobody"
