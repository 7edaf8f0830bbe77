"""What stands before Ray's HTTP proxy: headers, lost replicas and errors in plain text."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from serve.proxy import ProxyGuard, safe_headers
from tests.support.service import ASK, error_of

Work = Callable[[Scope, Receive, Send], Awaitable[None]]


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


@pytest.mark.parametrize(("path", "tries"), [(ASK, 3), ("/v1/users/a/purchases", 1)])
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


def test_a_stream_that_is_broken_off_ends_in_one_error() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, b"text/event-stream; charset=utf-8"))
        await send(body(b"event: delta\ndata: {}\n\n", more=True))

    events = ask(broken).text.strip().split("\n\n")
    assert [event.split("\n")[0] for event in events] == ["event: delta", "event: error"]
