"""Which engine is asked next."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest

from msrrec import balancing
from msrrec.balancing import LeastBusy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(balancing, "monotonic", lambda: now[0])
    return now


class Name(str):
    """The id of a replica, which Serve also asks for as text."""

    @property
    def unique_id(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Replica:
    """As Serve shows one to its routers; ``reported`` is what it tells of its messages."""

    replica_id: Any
    availability_zone: str = "here"
    reported: int = 0
    node_id: str = "node"
    max_ongoing_requests: int = 10

    async def get_queue_len(self, **_: Any) -> int:
        return self.reported


class Fleet:
    """Some engines, and a router in front of them."""

    def __init__(self, *replicas: Replica) -> None:
        self.router = LeastBusy(
            deployment_id=SimpleNamespace(name="Engine", app_name="msrrec"),
            handle_source=SimpleNamespace(value="REPLICA"),
            use_replica_queue_len_cache=True,
            prefer_local_az_routing=True,
            self_availability_zone="here",
        )
        self.replicas = list(replicas)

    async def __aenter__(self) -> "Fleet":
        self.router.update_replicas(self.replicas)
        known = self.router.replica_queue_len_cache
        while any(known.get(one.replica_id) is None for one in self.replicas):
            await asyncio.sleep(0.001)  # it asks them what they are doing
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def choose(self, message: PendingRequest | None = None) -> list[list[str]]:
        """The names of the replicas in the order in which they are tried."""
        message = message or PendingRequest([], {}, SimpleNamespace())
        ranked = await self.router.choose_replicas(self.replicas, message)
        return [sorted(one.replica_id for one in together) for together in ranked]

    def send(self, name: Any, times: int = 1) -> None:
        for _ in range(times):
            self.router.on_send_request(Name(name))

    def answer(self, name: Any, times: int = 1) -> None:
        for _ in range(times):
            self.router.on_request_completed(Name(name), "id")
            self.router.decrement_queue_len_cache(Name(name))


def named(*names: str) -> list[Replica]:
    return [Replica(Name(name)) for name in names]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.mark.usefixtures("clock")
def test_the_engine_with_fewer_messages_is_tried_first_and_the_others_after_it() -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b", "c")) as fleet:
            fleet.send("a", 3)
            fleet.send("b", 2)
            assert await fleet.choose() == [["c"], ["b"], ["a"]]
            fleet.answer("a", 3)
            fleet.send("c", 4)
            assert await fleet.choose() == [["a"], ["b"], ["c"]]

    run(test)


@pytest.mark.usefixtures("clock")
def test_reports_decide_between_equals_alone() -> None:
    async def test() -> None:
        async with Fleet(Replica(Name("a"), reported=5), Replica(Name("b"), reported=4)) as fleet:
            assert await fleet.choose() == [["b"], ["a"]]
            fleet.send("b")
            fleet.router.on_new_queue_len_info(Name("b"), 0)  # as one does that has just begun
            assert await fleet.choose() == [["a"], ["b"]]

    run(test)


@pytest.mark.usefixtures("clock")
def test_choices_before_the_first_is_sent_go_to_different_engines() -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b")) as fleet:
            found = [(await fleet.choose())[0][0] for _ in range(6)]
            assert sorted(found) == ["a"] * 3 + ["b"] * 3

    run(test)


def test_choices_that_no_message_followed_are_forgotten_for_good(clock: list[float]) -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b")) as fleet:
            fleet.send("b", 2)
            for _ in range(50):
                clock[0] += 0.02
                await fleet.choose()  # mostly of a, and in vain
            clock[0] += 1
            for _ in range(2):
                assert (await fleet.choose())[0] == ["a"]
                fleet.send("a")
            fleet.answer("b")
            assert await fleet.choose() == [["b"], ["a"]]

    run(test)


@pytest.mark.parametrize("reported", [10, None])
def test_all_are_compared_where_the_first_may_be_full(
    reported: int | None, clock: list[float]
) -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b")) as fleet:
            fleet.send("b", 3)
            if reported is None:
                fleet.router.on_replica_actor_unavailable(Name("a"))
            else:
                fleet.router.on_new_queue_len_info(Name("a"), reported)
            assert await fleet.choose() == [["a", "b"]]

    run(test)


@pytest.mark.usefixtures("clock")
def test_the_same_zone_is_tried_first_and_serve_waits_between_rounds_of_all() -> None:
    async def test() -> None:
        async with Fleet(Replica(Name("far"), "there"), Replica(Name("near"), "here")) as fleet:
            fleet.send("near", 3)
            message = PendingRequest([], {}, SimpleNamespace())
            assert await fleet.choose(message) == [["near"]]
            assert not message.routing_context.should_backoff
            assert await fleet.choose(message) == [["far"], ["near"]]
            assert message.routing_context.should_backoff

    run(test)


@pytest.mark.usefixtures("clock")
def test_engines_that_are_gone_leave_nothing_behind() -> None:
    async def test() -> None:
        async with Fleet(*named("old", "new")) as fleet:
            fleet.send("new")
            assert await fleet.choose() == [["old"], ["new"]]
            fleet.replicas = []
            assert await fleet.choose() == []
            fleet.send("old")  # a message that was on its way
            fleet.answer("old")
            fleet.answer("old")  # one that could not be sent is answered, too
            fleet.answer("new")
            fleet.replicas = named("new", "other")
            await fleet.__aenter__()
            fleet.send("new")
            assert await fleet.choose() == [["other"], ["new"]]

    run(test)


@pytest.mark.usefixtures("clock")
def test_a_choice_counts_no_more_once_its_message_is_sent() -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b")) as fleet:
            fleet.send("b", 3)
            for _ in range(3):
                assert (await fleet.choose())[0] == ["a"]
                fleet.send("a")

    run(test)


@pytest.mark.usefixtures("clock")
def test_a_message_that_could_not_be_sent_makes_no_engine_seem_idle() -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b")) as fleet:
            fleet.answer("a")
            fleet.send("a")
            fleet.send("b")
            fleet.router.on_new_queue_len_info(Name("a"), 5)
            assert await fleet.choose() == [["b"], ["a"]]

    run(test)


def test_equals_are_drawn(clock: list[float]) -> None:
    async def test() -> None:
        async with Fleet(*named("a", "b", "c")) as fleet:
            first = set()
            for _ in range(60):
                clock[0] += 1
                first.add((await fleet.choose())[0][0])
            assert first == {"a", "b", "c"}

    run(test)


def test_serve_imports_it_by_a_name_that_no_folder_of_a_user_has() -> None:
    config = RequestRouterConfig(request_router_class=LeastBusy)
    assert config.request_router_class == "msrrec.balancing.LeastBusy"
