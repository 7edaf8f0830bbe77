"""What stands before Ray's HTTP proxy: headers, lost replicas and errors in plain text."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from serve.limits import overloaded
from serve.proxy import ProxyGuard, safe_headers
from serve.routing import WAITED, Follower, read_waited
from tests.support.clock import run_at_once
from tests.support.service import ASK, assembled, error_of, events_of

Work = Callable[[Scope, Receive, Send], Awaitable[None]]


class NoRollout(Follower):
    """Finds at once that nothing was ever rolled out."""

    async def current(self) -> None:
        return None


def ask(work: Work, path: str = ASK, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(ProxyGuard(work))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, **options)

    return asyncio.run(go())


def start(status: int, kind: bytes) -> Message:
    headers = [(b"content-type", kind)]
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def test_headers_that_control_rays_proxy_are_stripped_whatever_their_spelling() -> None:
    kept = [(b"content-type", b"application/json"), (b"x-request-id", b"a-1.B_2")]
    stripped = [
        (b"x-request-timeout-seconds", b"-1"),
        (b"X-Request-Disconnect-Disabled", b"?1"),
        (b"serve-multiplexed-model-id", b"other"),
        (b"x_session_id", b"the-same-replica"),
        (b"x-request-id", b"a b"),
        (b"x-request-id", b"\x1b[31m"),
        (b"X-Request-Id", b"x" * 65),
    ]
    assert safe_headers([*stripped, *kept]) == kept


def test_a_recommendation_whose_replica_is_lost_is_asked_for_again_with_its_body() -> None:
    bodies: list[bytes] = []

    async def lost_once(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append((await receive())["body"])
        if len(bodies) > 1:
            await send(start(200, b"application/json"))
            await send(body(b"{}"))

    assert ask(lost_once, content=b"title").json() == {}
    assert bodies == [b"title"] * 2


def test_a_replica_that_is_asked_later_knows_what_others_have_taken_of_the_time() -> None:
    waited = []

    async def lost_twice(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        waited.append(read_waited(Headers(scope=scope)))
        await asyncio.sleep(1.5)
        if len(waited) == 3:
            await send(start(200, b"application/json"))
            await send(body(b"{}"))

    async def ask_slowly() -> int:
        transport = httpx.ASGITransport(ProxyGuard(lost_twice, NoRollout()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post(ASK, headers={WAITED.decode(): "50"})).status_code

    assert run_at_once(ask_slowly()) == 200
    assert waited == pytest.approx([0, 1.5, 3], abs=0.01)


@pytest.mark.parametrize(
    ("path", "tries"), [(ASK, 3), (f"{ASK}:batch", 3), ("/v1/users/a/purchases", 1)]
)
def test_a_replica_lost_for_good_is_a_503_and_changes_are_sent_once(path: str, tries: int) -> None:
    calls = []

    async def lost(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(await receive())

    response = ask(lost, path, content=b"x")
    assert (response.status_code, len(calls)) == (503, tries)
    assert error_of(response)["type"] == "overloaded"
    assert int(response.headers["retry-after"]) >= 1


def test_rays_errors_in_plain_text_become_the_documented_json() -> None:
    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(503, b"text/plain"))
        await send(body(b"Request dropped due to backpressure (num_queued_requests=7)"))

    response = ask(full)
    assert response.status_code == 503
    assert error_of(response)["type"] == "overloaded"
    assert "backpressure" not in response.text
    assert int(response.headers["retry-after"]) >= 1


def delta(offset: int, text: str, side: str = "user") -> bytes:
    data = json.dumps({"side": side, "offset": offset, "text": text})
    return f"event: delta\ndata: {data}\n\n".encode()


RESULT = b'event: result\ndata: {"item": "Rope"}\n\n'


def stream(*parts: bytes) -> list[Message]:
    """What a replica sends until it is lost."""
    begin = start(200, b"text/event-stream; charset=utf-8")
    return [begin, *(body(part, more=True) for part in parts)]


def ask_replicas(*replicas: list[Message]) -> list[tuple[str, dict[str, Any]]]:
    """The events that a client gets of replicas that are asked one after the other."""
    waiting = iter(replicas)

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in next(waiting, []):
            await send(message)

    found = events_of(ask(work))
    assert next(waiting, None) is None  # all were asked
    return found


def test_a_stream_whose_replicas_are_all_lost_ends_in_one_error() -> None:
    events = ask_replicas(stream(delta(0, "It")), [], [])
    assert [name for name, _ in events] == ["delta", "error"]
    assert events[-1][1]["error"]["type"] == "overloaded"


def test_another_replica_goes_on_with_a_stream_where_the_first_was_lost() -> None:
    events = ask_replicas(
        stream(delta(0, "It is"), delta(0, "Wh", "item"), delta(5, " a ro")[:-9]),
        stream(delta(0, "It"), delta(2, " is a"), delta(0, "Why", "item")),
        stream(delta(0, "It is a"), delta(7, " rope"), delta(0, "Why", "item"), RESULT),
    )
    assert [assembled(events, side) for side in ("user", "item")] == ["It is a rope", "Why"]
    sent = [(one["side"], one["offset"], one["text"]) for name, one in events if name == "delta"]
    assert sent == [
        *(("user", 0, "It is"), ("item", 0, "Wh"), ("user", 5, " a"), ("item", 2, "y")),
        ("user", 7, " rope"),
    ]
    assert events[-1] == ("result", {"item": "Rope"})


def test_an_answer_that_was_made_meanwhile_is_the_streams_result() -> None:
    events = ask_replicas(stream(delta(0, "It")), [*stream(RESULT), body(b"")])
    assert [name for name, _ in events] == ["delta", "result"]


@pytest.mark.parametrize(
    ("kind", "content", "shown"),
    [
        (b"application/json", overloaded("full").body(), "full"),
        (b"text/plain", "backpressure", "status 503"),
    ],
)
def test_a_replica_that_refuses_to_go_on_ends_the_stream_with_its_error(
    kind: bytes, content: object, shown: str
) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    refusal = [start(503, kind), body(text.encode())]
    events = ask_replicas(stream(delta(0, "It")), refusal)
    assert [name for name, _ in events] == ["delta", "error"]
    assert shown in events[-1][1]["error"]["message"]
