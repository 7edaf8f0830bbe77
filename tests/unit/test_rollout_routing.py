"""Who answers a request while another version is rolled out."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from ray.exceptions import RaySystemError
from starlette.types import Receive, Scope, Send

from serve.proxy import ProxyGuard, safe_headers
from serve.routing import KEPT, Follower, Routing, Version, key_of
from tests.support.clock import run_at_once
from tests.support.service import ASK, World, error_of


def version(app: str, prefix: str = "") -> Version:
    return Version(app=app, prefix=prefix, model=app, drain_s=70)


OLD, NEW = version("old"), version("new", "/.msrrec/1")
BEGUN = Routing(base=OLD, live=OLD, next=NEW, share=1.0, is_ready=True, number=1)


def share_of(routing: Routing, share: float, keys: range = range(20_000)) -> set[int]:
    """The keys that the next version gets."""
    changed = routing.model_copy(update={"share": share})
    return {n for n in keys if changed.choose(str(n).encode()) == NEW}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_next_version_gets_its_share_of_the_keys(share: float) -> None:
    # the standard deviation of 20,000 draws is at most 0.0035
    assert len(share_of(BEGUN, share)) / 20_000 == pytest.approx(share, abs=0.012)


def test_a_key_stays_with_its_version_and_a_larger_share_keeps_all_of_a_smaller_one() -> None:
    assert share_of(BEGUN, 0.1) == share_of(BEGUN, 0.1)
    assert share_of(BEGUN, 0.1) < share_of(BEGUN, 0.5)


def test_another_rollout_begins_with_other_keys() -> None:
    other = BEGUN.model_copy(update={"began": 1.0})
    keys = [str(n).encode() for n in range(1000)]
    both = [routing.model_copy(update={"share": 0.5}) for routing in (BEGUN, other)]
    chosen = [{key for key in keys if routing.choose(key) != OLD} for routing in both]
    assert 150 < len(chosen[0] & chosen[1]) < 350  # 250 by chance


def test_a_version_that_is_not_ready_gets_nothing() -> None:
    assert BEGUN.model_copy(update={"is_ready": False}).choose(b"a") == OLD


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"user_id": "ann", "top_k": 2}', b"ann"),
        (b'{"user_id": 7}', b'{"user_id": 7}'),
        (b'{"history": ["a"]}', b'{"history": ["a"]}'),
        (b'"user_id" {', b'"user_id" {'),
        (b'["user_id"]', b'["user_id"]'),
        (b'{"user_id":' + b"[" * 100_000, b'{"user_id":' + b"[" * 100_000),
        (rb'{"user_id": "\ud800"}', b"\xed\xa0\x80"),
    ],
)
def test_a_user_who_is_named_decides_and_else_the_whole_body(body: bytes, key: bytes) -> None:
    assert key_of(body) == key


Answer = tuple[int, str, bytes]
OK: Answer = (200, "application/json", b"{}")


class Proxy:
    """Ray's proxy over versions that answer as a test says; None is a replica that is lost.

    Attributes:
        asked: Path and body of every request that reached it.
        kept: Those of their paths whose change was said to be kept already.
    """

    def __init__(self, answers: dict[str, Answer | None]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, bytes]] = []
        self.kept: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        assert scope["raw_path"] == path.encode()
        self.asked.append((path, (await receive()).get("body", b"")))
        self.kept += [path for name, _ in scope["headers"] if name == KEPT]
        prefix = NEW.prefix if path.startswith(NEW.prefix) else ""
        unknown = (404, "text/plain", b"Path not found")
        answer = self.answers.get(prefix, unknown)
        if answer is None:
            return
        status, kind, content = answer
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def ask(
    proxy: Callable[[Scope, Receive, Send], Awaitable[None]],
    states: list[Routing | None],
    path: str = ASK,
    method: str = "POST",
    content: bytes = b"{}",
) -> httpx.Response:
    """Ask through a guard that finds these states, one after another; the last one stays."""
    waiting = iter(states)
    follower = Follower(lambda: next(waiting, states[-1]))

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(ProxyGuard(proxy, follower))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(go())


def test_the_next_version_is_asked_under_its_prefix_with_the_whole_body() -> None:
    proxy = Proxy({"": OK, NEW.prefix: OK})
    assert ask(proxy, [BEGUN], content=b"titles").status_code == 200
    assert proxy.asked == [(NEW.prefix + ASK, b"titles")]


def full(status: int) -> Answer:
    return status, "application/json", json.dumps({"error": {"type": "full"}}).encode()


@pytest.mark.parametrize(
    "failure",
    [None, full(503), full(500), (503, "text/plain", b"no replica"), (404, "text/plain", b"")],
)
def test_what_the_next_version_does_not_answer_the_live_one_is_asked(
    failure: Answer | None,
) -> None:
    proxy = Proxy({"": OK, NEW.prefix: failure})
    response = ask(proxy, [BEGUN], content=b"titles")
    assert (response.status_code, response.json()) == (200, {})
    assert proxy.asked == [(NEW.prefix + ASK, b"titles"), (ASK, b"titles")]


def test_only_the_version_that_began_a_stream_goes_on_with_it() -> None:
    begun = b'event: delta\ndata: {"side": "user", "offset": 0, "text": "It"}\n\n'
    proxy = Proxy({"": OK, NEW.prefix: (200, "text/event-stream", begun)})
    response = ask(proxy, [BEGUN])
    assert proxy.paths == [NEW.prefix + ASK] * 3
    assert response.text.startswith(begun.decode() + "event: error")


@pytest.mark.parametrize("status", [401, 422, 429, 504])
def test_what_is_the_requests_own_fault_or_too_late_is_not_asked_again(status: int) -> None:
    proxy = Proxy({"": OK, NEW.prefix: full(status)})
    assert ask(proxy, [BEGUN]).status_code == status
    assert len(proxy.asked) == 1


def test_a_version_that_was_live_when_it_was_asked_may_go_before_it_answers() -> None:
    follower = Follower(lambda: BEGUN)
    proxy = Proxy({NEW.prefix: OK})

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == ASK:  # meanwhile the next version was promoted
            follower.latest, proxy.answers[""] = PROMOTED, full(503)
        await proxy(scope, receive, send)

    async def go() -> httpx.Response:
        await follower.current()
        follower.latest = BEGUN.model_copy(update={"share": 0.0})
        transport = httpx.ASGITransport(ProxyGuard(slow, follower))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(ASK)

    assert asyncio.run(go()).status_code == 200
    assert proxy.paths == [ASK, NEW.prefix + ASK]


def test_a_refusal_of_the_live_version_reaches_the_client() -> None:
    proxy = Proxy({"": full(503), NEW.prefix: full(500)})
    response = ask(proxy, [BEGUN])
    assert (response.status_code, response.json()["error"]["type"]) == (503, "full")
    assert proxy.paths == [NEW.prefix + ASK, ASK]


def test_a_lost_replica_of_the_live_version_is_asked_again() -> None:
    proxy = Proxy({"": None})
    response = ask(proxy, [Routing(base=OLD, live=OLD)])
    assert (response.status_code, len(proxy.asked)) == (503, 3)
    assert error_of(response)["type"] == "overloaded"


PROMOTED = Routing(base=OLD, live=NEW, number=1)


@pytest.mark.parametrize("path", [ASK, "/", "/metrics", "/v1/items/a", "/healthz"])
def test_all_paths_of_the_service_go_to_the_version_that_is_live(path: str) -> None:
    proxy = Proxy({NEW.prefix: OK})
    assert ask(proxy, [PROMOTED], path).status_code == 200
    assert proxy.paths == [NEW.prefix + path]


def test_a_proxy_that_missed_a_change_looks_again_and_changes_nothing_twice() -> None:
    proxy = Proxy({NEW.prefix: OK})  # the old version is gone
    assert ask(proxy, [BEGUN, PROMOTED], "/v1/items/a", "PUT").status_code == 200
    assert proxy.paths == ["/v1/items/a", NEW.prefix + "/v1/items/a"]


def test_a_state_that_names_what_is_gone_does_not_end_the_service() -> None:
    proxy = Proxy({"": OK})
    assert ask(proxy, [PROMOTED]).status_code == 200
    assert proxy.paths == [NEW.prefix + ASK, ASK]


def test_other_applications_keep_their_paths() -> None:
    proxy = Proxy({"": OK})
    assert ask(proxy, [PROMOTED], "/other/v1/recommend").status_code == 200
    assert proxy.paths == ["/other/v1/recommend"]


@pytest.mark.parametrize("state", [None, BEGUN, PROMOTED])
@pytest.mark.parametrize("path", ["/.msrrec", NEW.prefix + ASK, "/%2Emsrrec/1/metrics"])
def test_clients_reach_no_version_by_its_prefix(state: Routing | None, path: str) -> None:
    proxy = Proxy({"": OK, NEW.prefix: OK})
    response = ask(proxy, [state], path)
    assert (response.status_code, error_of(response)["type"]) == (404, "not_found")
    assert proxy.asked == []


@pytest.mark.parametrize("path", ["/v1/items/a", "/v1/users/ann/purchases"])
def test_a_change_is_told_to_both_versions_and_the_live_one_answers(path: str) -> None:
    proxy = Proxy({"": OK, NEW.prefix: full(500)})
    assert ask(proxy, [BEGUN], path, content=b"what").status_code == 200
    assert proxy.asked == [(path, b"what"), (NEW.prefix + path, b"what")]
    assert proxy.kept == [NEW.prefix + path]


def test_clients_can_not_say_that_a_change_is_kept() -> None:
    assert safe_headers([(b"X-MSRREC-kept", b"1"), (b"x_msrrec_kept", b"1")]) == []


def test_a_change_that_the_live_version_refuses_is_not_told_to_the_next_one() -> None:
    proxy = Proxy({"": full(422), NEW.prefix: OK})
    assert ask(proxy, [BEGUN], "/v1/items/a").status_code == 422
    assert len(proxy.asked) == 1


def test_a_state_that_can_not_be_read_stays_as_it_was() -> None:
    answers: list[Any] = [BEGUN, RaySystemError("the head restarts")]

    def read() -> Routing | None:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def go() -> Routing | None:
        follower = Follower(read)
        await follower.current()
        await follower.look()
        return follower.latest

    assert asyncio.run(go()) == BEGUN
    assert answers == []


def test_only_the_first_requests_wait_for_a_state_that_can_not_be_read() -> None:
    def refuse() -> Routing | None:
        raise RaySystemError("the head restarts")

    async def go() -> list[float]:
        follower, waited = Follower(refuse), []
        for _ in range(2):
            began = asyncio.get_running_loop().time()
            assert await follower.current() is None
            waited.append(asyncio.get_running_loop().time() - began)
        return waited

    assert run_at_once(go()) == pytest.approx([5, 0], abs=0.01)


def test_a_version_under_a_prefix_sees_the_paths_that_clients_asked_for() -> None:
    world = World(key="k")
    statuses = []
    for path in ("/v1/models", ASK, "/healthz", "/v1/nothing"):
        transport = httpx.ASGITransport(world.app, root_path=NEW.prefix)

        async def go(transport: Any = transport, path: str = path) -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.get(NEW.prefix + path)

        statuses.append(asyncio.run(go()).status_code)
    assert statuses == [401, 401, 200, 401]  # its keys protect the same paths
    assert world.call("GET", "/metrics", headers={"Authorization": "Bearer k"}).text.count(
        'msrrec_requests_total{status="401"} 1.0'
    )
