"""Both sides on one engine: a request is one message, and a lost engine is asked for both again."""

import asyncio

import pytest

from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from serve.engine import EngineReplica
from tests.support.service import World, assembled, events_of


@pytest.fixture
def world() -> World:
    return World(share_engine=True)


def test_both_sides_are_one_message_and_so_are_all_rankings(world: World) -> None:
    apart = World()
    apart.item.logprob = apart.user.logprob
    assert world.ask().json()["sides"] == apart.ask().json()["sides"]
    assert (world.user.num_messages, len(world.user.requests)) == (1, 2)
    assert (apart.user.num_messages, apart.item.num_messages) == (1, 1)
    world.user.num_messages = 0
    assert world.ask(top_k=2).json()["ranking"] == apart.ask(top_k=2).json()["ranking"]
    assert world.user.num_messages == 2


def test_an_adapter_of_a_shared_engine_is_asked_in_one_message_too() -> None:
    world = World(share_engine=True, adapters={"Toys": "Toys"})
    assert world.ask(domain="Toys").status_code == 200
    assert world.user.num_messages == 1
    assert {one.adapter for one in world.user.requests} == {"Toys"}


def test_a_lost_engine_is_asked_for_both_sides_again(world: World) -> None:
    world.user.deaths = 1
    assert world.ask().status_code == 200
    assert world.user.num_messages == 2
    figures = world.call("GET", "/metrics").text
    for side in ("user", "item"):
        assert f'msrrec_engine_retries_total{{side="{side}"}} 1.0' in figures


def test_a_stream_is_one_message_too(world: World) -> None:
    events = events_of(world.ask(stream=True))
    assert (world.user.num_messages, len(world.user.requests)) == (1, 2)
    for side in ("user", "item"):
        assert assembled(events, side) == "It is Rope.\n[reasoning_end]\n(2) Rope"
    assert {**events[-1][1], "latency_ms": 0} == {**world.ask().json(), "latency_ms": 0}


def test_a_stream_whose_engine_is_lost_asks_only_for_what_is_not_whole(world: World) -> None:
    whole = world.ask().json()
    calls = 0

    async def die_in_the_second_output() -> None:
        nonlocal calls
        calls += 1
        world.user.deaths = int(calls == 2)

    world.user.before = die_in_the_second_output
    world.user.requests.clear()
    events = events_of(world.ask(stream=True))
    user, item, again = world.user.requests
    assert (item, user != item) == (again, True)
    figures = world.call("GET", "/metrics").text
    assert 'msrrec_engine_retries_total{side="item"} 1.0' in figures
    assert 'msrrec_engine_retries_total{side="user"}' not in figures
    assert {**events[-1][1], "latency_ms": 0} == {**whole, "latency_ms": 0}
    for side in ("user", "item"):
        assert assembled(events, side) == "It is Rope.\n[reasoning_end]\n(2) Rope"


def test_a_request_that_fails_in_an_engine_ends_those_of_its_message() -> None:
    ended = []

    class Half:
        async def generate(self, request: GenerationRequest) -> Generation:
            if request.seed == 1:
                raise EngineError("refused")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                ended.append(request.seed)
                raise
            raise AssertionError

        async def check_health(self) -> None:
            pass

    async def go() -> None:
        replica = EngineReplica(Half)  # type: ignore[arg-type]
        requests = [GenerationRequest((1,), seed, 8, 0.7) for seed in (0, 1)]
        with pytest.raises(EngineError, match="refused"):
            await replica.generate(requests)
        assert ended == [0]  # now, and not only as the loop ends

    asyncio.run(go())
