"""What a try of a call means where there is no response, or one that goes elsewhere."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from bench.stand_in import completion
from msrrec.chat.client import ChatClient
from msrrec.chat.failures import TryAgain
from msrrec.command import teacher_keys
from msrrec.config import EndpointConfig, RunConfig
from msrrec.engines.loopback import serve_on_loopback
from msrrec.errors import EngineError


def call(base_url: str, *, timeout_s: float = 10.0, key: str | None = None) -> None:
    """One try of one call."""

    async def go() -> None:
        client = ChatClient("teacher", EndpointConfig(base_url=base_url), key, timeout_s)
        try:
            await client.complete("Which?", {})
        finally:
            await client.close()

    asyncio.run(go())


@contextmanager
def listening() -> Iterator[str]:
    """The address of a socket that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.parametrize("url", ["ftp://example.org/v1", "http://[bad/v1", "http:///v1"])
def test_what_is_no_address_ends_the_run_in_one_sentence(url: str) -> None:
    with pytest.raises(EngineError, match="is not an address; expected https"):
        call(url)


def test_an_address_where_nobody_listens_is_told_from_one_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TryAgain) as nobody:
        call(f"http://127.0.0.1:{port}/v1")
    assert nobody.value.is_refused
    with listening() as url, pytest.raises(TryAgain, match="timed out") as silent:
        call(url, timeout_s=0.2)
    assert silent.value.is_overloaded
    assert not silent.value.is_refused


def test_a_redirect_is_not_followed() -> None:
    app, seen = FastAPI(), []

    @app.post("/v1/chat/completions")
    async def chat() -> RedirectResponse:
        return RedirectResponse("/elsewhere", status_code=307)

    @app.post("/elsewhere")
    async def elsewhere() -> None:
        seen.append(1)

    with serve_on_loopback(app) as url, pytest.raises(EngineError, match="no such path or model"):
        call(f"{url}/v1")
    assert not seen


@pytest.mark.parametrize(("key", "sent"), [("secret", "Bearer secret"), (None, "Bearer none")])
def test_the_key_goes_along_and_loopback_past_any_proxy(
    monkeypatch: pytest.MonkeyPatch, key: str | None, sent: str
) -> None:
    app, seen = FastAPI(), []

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> dict[str, object]:
        seen.append(request.headers["authorization"])
        return completion("Yes.")

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve_on_loopback(app) as url:
        call(f"{url}/v1", key=key)
    assert seen == [sent]


def test_a_key_loses_the_line_end_of_the_file_that_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", "secret\n")
    monkeypatch.setenv("JUDGE_API_KEY", " \n")
    assert teacher_keys(RunConfig()) == {"TEACHER_API_KEY": "secret"}
