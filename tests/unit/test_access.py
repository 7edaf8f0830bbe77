"""Each request has an id, which every line that is logged on its way carries, in all processes."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from msrrec import log
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from msrrec.log import REQUEST_ID
from serve.engine import EngineReplica
from tests.support.service import ASK, BODY, World


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged as JSON; afterwards lines are text again."""
    written = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", written)
        log.setup(as_json=True)
        yield written
    log.setup()


def lines(stderr: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def test_a_line_is_an_object_with_its_request_and_without_secrets(stderr: io.StringIO) -> None:
    logger = logging.getLogger("msrrec.test")
    token = REQUEST_ID.set("r-1")
    logger.info("read %s", "s3://key:secret@host/x", extra={"fields": {"num": 2}})
    REQUEST_ID.reset(token)
    try:
        raise ValueError("line 1\nline 2")
    except ValueError:
        logger.exception("broke")
    first, second = lines(stderr)
    assert (first["level"], first["logger"], first["num"]) == ("info", "msrrec.test", 2)
    assert first["request_id"] == "r-1"
    assert "secret" not in first["message"]
    assert first["time"].endswith("+00:00")
    assert "request_id" not in second
    assert "ValueError: line 1\nline 2" in second["exception"]


def ask(world: World, request_id: str) -> None:
    world.call("POST", ASK, json=BODY, headers={"X-Request-ID": request_id})


def test_a_request_is_logged_with_its_id_and_without_its_titles(stderr: io.StringIO) -> None:
    world = World(log_format="json")
    ask(world, "shop-17.3")
    world.call("POST", "/v1/users/mary/purchases", json={"items": ["Rope"]})
    world.call("GET", "/nothing/mary")
    one, other, unknown = lines(stderr)
    assert (one["request_id"], one["route"], one["status"]) == ("shop-17.3", ASK, 200)
    assert one["ms"] >= 0
    assert (other["status"], unknown["route"], unknown["status"]) == (404, None, 404)
    for private in ("Rope", "Camera", "mary"):
        assert private not in stderr.getvalue()


@pytest.mark.parametrize("given", ["", "x" * 81, "a b", 'a"}', "ü"])
def test_an_id_that_could_harm_a_log_is_replaced(stderr: io.StringIO, given: str) -> None:
    headers = [(b"x-request-id", given.encode())]
    World(log_format="json").call("GET", "/healthz", headers=headers)
    (line,) = lines(stderr)
    assert len(line["request_id"]) == 32
    assert line["request_id"] != given


def test_text_logs_have_no_line_for_each_request(stderr: io.StringIO) -> None:
    ask(World(), "r")
    assert stderr.getvalue() == ""


def test_what_goes_wrong_on_the_way_carries_the_id(stderr: io.StringIO) -> None:
    async def refuse() -> None:
        raise EngineError("no memory")

    world = World(log_format="json")
    world.user.before = refuse
    ask(world, "r-9")
    found = lines(stderr)
    assert {line["request_id"] for line in found} == {"r-9"}
    assert [line["message"] for line in found] == ["engine: no memory", "request"]


class OneToken:
    """An engine whose outputs are one token."""

    async def generate(self, request: GenerationRequest) -> Generation:
        return Generation((7,), (-1.0,), "stop")

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        yield Generation((7,), (-1.0,), "")
        yield await self.generate(request)

    async def check_health(self) -> None:
        """Always well."""


@pytest.mark.parametrize("as_json", [False, True])
def test_an_engine_logs_each_output_with_the_id_of_its_request(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    async def go() -> None:
        replica = EngineReplica(OneToken, as_json=as_json)
        await replica.generate([GenerationRequest((1, 2, 3), 0, 8, 0.7)], "r-5")
        async for _ in replica.stream([GenerationRequest((1, 2), 0, 8, 0.7)], "r-6"):
            pass

    asyncio.run(go())
    log.setup()
    written = capsys.readouterr().err
    if not as_json:
        assert written == ""
        return
    first, second = map(json.loads, written.splitlines())
    assert (first["request_id"], second["request_id"]) == ("r-5", "r-6")
    assert (first["prompt_tokens"], first["new_tokens"]) == (3, 1)
    assert (second["message"], second["finish_reason"]) == ("output", "stop")
