"""What a call to a teacher sends, under the names that its API knows."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from bench.stand_in import completion
from msrrec.config import EndpointConfig, changed_settings, load_config
from msrrec.engines.loopback import serve_on_loopback
from msrrec.engines.openai import TeacherClient
from msrrec.errors import ConfigError


@contextmanager
def recording(bodies: list[dict[str, Any]]) -> Iterator[str]:
    """An API that puts what it was sent into a list."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        bodies.append(await request.json())
        return JSONResponse(completion("Yes."))

    with serve_on_loopback(app) as url:
        yield f"{url}/v1"


def sent(attempt: int = 0, *, sends_seed: bool = False, **settings: Any) -> dict[str, Any]:
    """The body of one call."""
    bodies: list[dict[str, Any]] = []

    async def call(url: str) -> None:
        endpoint = EndpointConfig(base_url=url, model="m", **settings)
        client = TeacherClient(endpoint, None, 10.0, sends_seed=sends_seed)
        await client.complete("Which?", attempt)
        await client.close()

    with recording(bodies) as url:
        asyncio.run(call(url))
    (body,) = bodies
    return body


PLAIN = {
    "model": "m",
    "messages": [{"role": "user", "content": "Which?"}],
    "temperature": 0.6,
    "max_tokens": 4096,
}


def test_the_attempt_is_the_seed_where_the_api_takes_one() -> None:
    assert sent(3) == PLAIN
    assert sent(3, sends_seed=True) == {**PLAIN, "seed": 3}


def test_parameters_are_renamed_left_out_and_added() -> None:
    body = sent(
        rename={"max_tokens": "max_completion_tokens"},
        omit=("temperature",),
        extra_body={"reasoning_effort": "low", "provider": {"order": ["a"]}},
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_completion_tokens": 4096,
        "reasoning_effort": "low",
        "provider": {"order": ["a"]},
    }
    assert sent(extra_body={"temperature": 1})["temperature"] == 1


GIVEN = [
    'teacher.extra_body={"reasoning_effort": "low"}',
    'teacher.omit=["temperature"]',
    'teacher.rename={"max_tokens": "max_completion_tokens"}',
]


def test_the_settings_of_parameters_are_read_and_written_by_the_command_line() -> None:
    config = load_config(overrides=GIVEN)
    assert config.teacher.endpoints[0].rename == {"max_tokens": "max_completion_tokens"}
    assert sorted(changed_settings(config, load_config(), ["teacher"])) == GIVEN
    judge = load_config(overrides=["judge.omit=[seed]", "judge.rename.max_tokens=n"]).judge
    assert judge.shape({"seed": 1, "max_tokens": 9}) == {"n": 9}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("teacher.omit=[messages]", "can't change messages"),
        ("judge.extra_body={stream: true}", "can't change stream"),
        ("teacher.others=[{base_url: 'http://b', rename: {model: m}}]", "can't change model"),
    ],
)
def test_what_every_call_needs_can_not_be_changed(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=[override])
    with pytest.raises(ConfigError, match="engine=vllm"):
        load_config(overrides=["teacher.engine=vllm", "teacher.omit=[temperature]"])
