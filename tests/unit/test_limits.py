"""What a request must pass before it is worked on: token, size of the body, a place."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from msrrec.errors import ConfigError
from serve.keys import read_variable
from tests.support.clock import run_at_once
from tests.support.service import ASK, BODY, World, error_of


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", "Basic secret", "secret", "Bearer sécret"]
)
def test_a_wrong_token_is_refused_before_anything_is_read(header: str | None) -> None:
    headers = {"Authorization": header.encode()} if header else {}
    response = World(key="secret").call("POST", ASK, content=b"not json", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error_of(response)["type"] == "unauthorized"


def test_the_right_token_opens_and_the_page_and_probes_need_none() -> None:
    world = World(key="secret")
    right = {"Authorization": "bearer secret"}
    assert world.call("POST", ASK, json=BODY, headers=right).status_code == 200
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert world.call("GET", path).status_code == 200, path
    for path in ("/metrics", "/v1/models"):
        assert world.call("GET", path).status_code == 401, path
        assert world.call("GET", path, headers=right).status_code == 200, path


def test_a_key_that_is_set_but_empty_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "  ")
    with pytest.raises(ConfigError, match="A_KEY: set but empty"):
        read_variable("A_KEY")
    monkeypatch.delenv("A_KEY")
    assert read_variable("A_KEY") == ()


def test_a_body_over_the_limit_is_refused_by_its_length_and_as_it_arrives() -> None:
    world = World(max_body_bytes=1024)
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b"x" * 100

    async def one_chunk() -> AsyncIterator[bytes]:
        yield b"x" * 1025

    for content in (b"x" * 1025, one_chunk(), chunks()):
        response = world.call("POST", ASK, content=content)
        assert response.status_code == 413
        assert error_of(response)["type"] == "request_too_large"
    assert sent < 1300  # the rest was never asked for


def test_a_body_of_one_message_without_a_length_is_held_to_the_limit_too() -> None:
    world = World(max_body_bytes=1024)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 1025}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": ASK, "headers": [], "query_string": b""}
    asyncio.run(world.app(scope, receive, send))
    assert sent[0]["status"] == 413


def test_a_body_of_many_small_messages_is_read_in_time_that_grows_with_their_number() -> None:
    class Counted(bytes):
        lengths = 0

        def __len__(self) -> int:
            Counted.lengths += 1
            return super().__len__()

    world, sent = World(), []
    content = iter(json.dumps(BODY).encode().ljust(4000))

    async def receive() -> dict[str, Any]:
        byte = next(content, None)
        body = Counted() if byte is None else Counted([byte])
        return {"type": "http.request", "body": body, "more_body": byte is not None}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": ASK, "headers": headers, "query_string": b""}
    asyncio.run(world.app(scope, receive, send))
    assert sent[0]["status"] == 200
    assert Counted.lengths < 5 * 4000


def test_a_large_request_of_hostile_titles_holds_nobody_up() -> None:
    world = World(max_body_bytes=262_144)
    hostile = [f"{n} &" + "ampamp;#38;" * 110 for n in range(40)]

    async def go() -> tuple[int, float]:
        async with world.client() as client:
            large = asyncio.create_task(client.post(ASK, json={**BODY, "history": hostile}))
            pauses, before = [], time.perf_counter()
            while not large.done():
                await asyncio.sleep(0.001)
                pauses.append(time.perf_counter() - before)
                before = time.perf_counter()
            return (await large).status_code, sorted(pauses)[-2] / sum(pauses)

    status, longest = asyncio.run(go())
    assert status == 200
    assert longest < 0.25  # of the whole time; it was all of it


def test_a_body_that_does_not_end_is_a_408_and_held_no_place() -> None:
    world = World(body_timeout_s=5)

    async def go() -> tuple[httpx.Response, float]:
        async def half() -> AsyncIterator[bytes]:
            yield b'{"history": ['
            await asyncio.sleep(3600)

        async with world.client() as client:
            slow = asyncio.create_task(client.post(ASK, content=half()))
            await asyncio.sleep(1)
            assert (world.api.admission.ongoing, world.api.admission.queued) == (0, 0)
            return await slow, asyncio.get_running_loop().time()

    response, seconds = run_at_once(go())
    assert response.status_code == 408
    assert error_of(response)["type"] == "request_timeout"
    assert seconds == pytest.approx(5)


@pytest.mark.parametrize(("path", "status"), [("/healthz", 405), ("/nowhere", 404)])
def test_where_no_body_is_expected_none_is_waited_for(path: str, status: int) -> None:
    async def go() -> httpx.Response:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0.001)

        async with World(key="secret").client() as client:
            return await client.post(path, content=endless())

    assert asyncio.run(asyncio.wait_for(go(), 30)).status_code == status


def test_a_body_at_the_limit_passes() -> None:
    world = World(max_body_bytes=1024)
    padded = json.dumps(BODY).encode().ljust(1024)
    headers = {"Content-Type": "application/json"}
    assert world.call("POST", ASK, content=padded, headers=headers).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_more_than_the_places_and_the_line_are_told_to_come_back(stream: bool) -> None:
    world = World(max_ongoing_requests=2, max_queued_requests=1)

    async def go() -> list[httpx.Response]:
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        world.user.before = wait
        async with world.client() as client:
            body = {**BODY, "stream": stream}
            held = [asyncio.create_task(client.post(ASK, json=body)) for _ in range(3)]
            while (world.api.admission.ongoing, world.api.admission.queued) != (2, 1):
                await asyncio.sleep(0.001)
            refused = await client.post(ASK, json=body)
            release.set()
            return [refused, *await asyncio.gather(*held)]

    refused, *served = asyncio.run(asyncio.wait_for(go(), 30))
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert error_of(refused)["type"] == "overloaded"
    assert [response.status_code for response in served] == [200] * 3
    assert (world.api.admission.ongoing, world.api.admission.queued) == (0, 0)


def test_waiting_for_a_place_counts_towards_the_deadline() -> None:
    world = World(deadline_s=0.05, max_ongoing_requests=1)

    async def go() -> list[int]:
        async def slow() -> None:
            await asyncio.sleep(60)

        world.user.before = slow
        async with world.client() as client:
            answers = await asyncio.gather(*(client.post(ASK, json=BODY) for _ in range(3)))
        return [answer.status_code for answer in answers]

    first, *others = asyncio.run(go())
    assert first == 504
    assert set(others) <= {503, 504}  # the first has shown that the others can't be in time
    assert (world.api.admission.ongoing, world.api.admission.queued) == (0, 0)
