"""Another version of a service under load, on Ray Serve with engines of the test's own."""

import asyncio
import itertools
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from msrrec.config import ServeConfig
from msrrec.embedded.backbone.tokenizer import train_tokenizer
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.models import locate_model
from tests.support.cli import Commands

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

ASK = "/v1/recommend"
KEY, ADMIN = "a client's", "an operator's"
PER_SECOND = 12


class ScriptedEngine:
    """Names the first candidate."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        prompt = self.tokenizer.decode(list(request.prompt_ids))
        title = prompt.split("(1) ")[1].split("\n")[0]
        text = f"It is {title}.\n[reasoning_end]\n(1) {title}"
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        for n in range(0, len(ids), 8):
            await asyncio.sleep(0.02)
            yield Generation(ids[n : n + 8], (-0.5,) * len(ids[n : n + 8]), "")
        yield Generation(ids, (-0.5,) * len(ids), "stop")

    async def check_health(self) -> None:
        pass


def build(blueprint: Any) -> Any:
    """The application of a version, with scripted engines."""
    from serve import app

    args = blueprint.args
    source = locate_model(args.model_dir)
    app.check_room(args)
    return app.assemble(blueprint, source, partial(ScriptedEngine, args.model_dir))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models, each a tokenizer and a config."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["Lens Rope Kettle Trail Camera"] * 20)
    for name in ("first", "second", "third"):
        tokenizer.save_pretrained(folder / name)
        LlamaConfig(max_position_embeddings=2048).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    """A service of the model ``first``, with a key for clients and one for operators."""
    from ray import cloudpickle, serve

    from serve import app
    from serve.keys import Keys
    from serve.rollout_cluster import Blueprint, end_rollouts

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import tests
    args = app.AppArgs(
        model_dir=str(models / "first"),
        serve=ServeConfig(deadline_s=600, share_engine=True, cache_ttl_s=0),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSRREC_API_KEY", KEY)
        patch.setenv("MSRREC_ADMIN_KEY", ADMIN)
        application = build(Blueprint(args, Keys.read(args.serve), build))
    port = app.free_port("127.0.0.1", 0)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application, name="versions", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    end_rollouts()
    assert set(serve.status().applications) <= {"versions"}
    serve.shutdown()


@dataclass
class Load:
    """Requests at a steady rate, every second one a stream, until it is stopped.

    Attributes:
        answers: For each request its number, status and the name of the model that answered.
    """

    url: str
    answers: list[tuple[int, int, str]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self._thread.join()

    def gather(self, number: int) -> Counter[str]:
        """Who answers that many of the requests that begin from now on."""
        begin = max((n for n, _, _ in self.answers), default=0) + PER_SECOND  # those under way
        wait(lambda: sum(n >= begin for n, _, _ in self.answers) >= number)
        return Counter(name for n, _, name in list(self.answers) if n >= begin)

    async def _drive(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=900, limits=limits
        ) as client:
            tasks = []
            for number in itertools.count():
                if self.is_over.is_set():
                    break
                tasks.append(asyncio.create_task(self._ask(client, number)))
                await asyncio.sleep(1 / PER_SECOND)
            await asyncio.gather(*tasks)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        body = {"history": [f"Camera {number}"], "candidates": ["Lens", "Rope"]}
        response = await client.post(ASK, json={**body, "stream": number % 2 == 1})
        answer = response.text.strip().rpartition("data: ")[2]
        name = json.loads(answer).get("model", {}).get("name", answer)
        self.answers.append((number, response.status_code, name))


def wait(happens: Callable[[], Any]) -> None:
    while not happens():
        time.sleep(0.05)


def test_versions_come_and_go_under_load_and_no_request_is_lost(
    url: str, models: Path, msrrec: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(*options: str) -> dict[str, Any]:
        summary: dict[str, Any] = msrrec("rollout", "--url", url, *options).summary
        return summary

    monkeypatch.setenv("MSRREC_ADMIN_KEY", ADMIN)
    with Load(url) as load:
        order("--model", str(models / "second"), "--share", "0.5")
        found = load.gather(60)
        number = found.total()
        assert set(found) == {"first", "second"}
        assert abs(found["second"] - number / 2) < 4 * math.sqrt(number / 4)
        shown = order()
        assert shown["live"]["version"] == shown["next"]["version"]  # equal but for their names
        assert shown["next"]["requests"] >= found["second"]
        assert shown["live"]["errors"] == shown["next"]["errors"] == 0
        assert 0 < shown["next"]["p50_s"] < 60
        order("--promote")
        assert set(load.gather(10)) == {"second"}
        order("--model", str(models / "third"), "--share", "1")
        assert set(load.gather(10)) == {"third"}
        state = order("--back")
        assert set(load.gather(10)) == {"second"}
    assert {status for _, status, _ in load.answers} == {200}
    assert {name for _, _, name in load.answers} == {"first", "second", "third"}
    assert (state["live"]["model"], state["next"]) == (str(models / "second"), None)
