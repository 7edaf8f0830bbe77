"""The HTTP API over two engines that say what a test wants, without Ray."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from msrrec.config import InferenceConfig, PromptConfig, ServeConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.inference.recommender import Recommender
from serve.adapters import Answering, adapt
from serve.fan_out import EngineLost, FanOut
from serve.ingress import Api, Settings, build_http
from serve.keys import Keys, read_variable
from serve.readiness import Readiness
from serve.shop import Shop
from serve.version import ServedModel

BODY: dict[str, Any] = {
    "domain": "Electronics",
    "history": ["Camera"],
    "candidates": ["Lens", "Rope", "Kettle"],
}
ASK = "/v1/recommend"


class Characters:
    """A tokenizer with one token a character."""

    bos_token = None

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class Scripted:
    """An engine that names a candidate by its number, after an optional wait.

    Asked what comes next, it finds each character twice as likely as the one before it.
    """

    def __init__(self, choice: int, logprob: float) -> None:
        self.choice, self.logprob = choice, logprob
        self.requests: list[GenerationRequest] = []
        self.num_messages = 0
        self.before: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.deaths = 0
        self.cancelled = 0

    def _output(self, request: GenerationRequest) -> Generation:
        if request.next_ids:
            scores = tuple(math.log(2) * (i - 128) for i in request.next_ids)
            return Generation((0,), (self.logprob,), "length", None, scores)
        prompt = "".join(map(chr, request.prompt_ids))
        title = prompt.split(f"({self.choice}) ")[1].split("\n")[0]
        text = f"It is {title}.\n[reasoning_end]\n({self.choice}) {title}"
        return Generation(tuple(map(ord, text)), (self.logprob,) * len(text), "stop")

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.num_messages += 1
        return [await self._generate(request) for request in requests]

    async def _generate(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        try:
            if self.before is not None:
                await self.before()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.deaths > 0:
            self.deaths -= 1
            raise EngineLost("gone")
        return self._output(request)

    async def stream(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Generation]]]:
        self.num_messages += 1
        wholes = [self._output(request) for request in requests]
        yield [(n, _cut(whole, 0, len(whole.token_ids) // 2)) for n, whole in enumerate(wholes)]
        for number, request in enumerate(requests):
            final = await self._generate(request)
            count = len(final.token_ids)
            yield [(number, _cut(final, count // 2, count))]
            yield [(number, final)]


def _cut(whole: Generation, begin: int, end: int) -> Generation:
    """A piece of an output."""
    return Generation(whole.token_ids[begin:end], whole.token_logprobs[begin:end], "")


class World:
    """The API over two scripted engines."""

    def __init__(
        self,
        key: str | None = None,
        shop: Shop | None = None,
        temperature: float | None = None,
        adapters: Mapping[str, str] | None = None,
        share_engine: bool = False,
        **limits: Any,
    ) -> None:
        """Start it; ``adapters`` are by domain, with what their prompts call the shop."""
        self.user = Scripted(2, -0.5)
        self.item = self.user if share_engine else Scripted(2, -1.0)
        recommender = Recommender(
            Characters(), max_model_len=8000, form=PromptConfig(), config=InferenceConfig()
        )
        digests: tuple[bytes, ...] = ()
        if key is not None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("A_KEY", key)
                digests = read_variable("A_KEY")
        given = ServeConfig(**{"cache_ttl_s": 0, **limits}), Keys(digests), temperature
        settings = Settings(ServedModel("tiny", "v1"), "Shopping", 8000, *given)
        self._clients = {"user": self.user, "item": self.item}
        fan_out = FanOut(recommender, self._clients)
        beside = [
            Answering(
                ServedModel(f"{name} model", f"v of {name}"),
                called,
                FanOut(recommender, adapt(self._clients, name)),
                asked_as=name,
            )
            for name, called in (adapters or {}).items()
        ]
        self.api = Api(settings, fan_out, shop, beside)
        self.readiness: Readiness = "ready"
        self.app: FastAPI = build_http(self.api, self._tell_readiness)

    async def _tell_readiness(self) -> Readiness:
        return self.readiness

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        return asyncio.run(go())

    def ask(self, **changes: Any) -> httpx.Response:
        return self.call("POST", ASK, json={**BODY, **changes})


def together(world: World, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    """Equal requests that come while the first is at work, which is held until all have come."""

    async def go() -> list[httpx.Response]:
        arrived = asyncio.Event()
        world.user.before = arrived.wait  # type: ignore[assignment]
        async with world.client() as client:
            tasks = []
            for body in bodies:
                tasks.append(asyncio.create_task(client.post(ASK, json={**BODY, **body})))
                for _ in range(20):
                    await asyncio.sleep(0)
            arrived.set()
            return list(await asyncio.gather(*tasks))

    return asyncio.run(asyncio.wait_for(go(), 30))


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"type", "message", "field"}
    assert "Traceback" not in response.text
    return error


def events_of(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in response.text.strip().split("\n\n"):
        event, data = block.split("\n")
        events.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def assembled(events: list[tuple[str, dict[str, Any]]], side: str) -> str:
    text = ""
    for name, data in events:
        if name == "delta" and data["side"] == side:
            text = text[: data["offset"]] + data["text"]
    return text


async def outlast_any_deadline() -> None:
    """An hour passes on the loop's clock once the engine is asked, however late that is."""
    loop = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + 3600  # type: ignore[method-assign]
    await asyncio.sleep(3600)
