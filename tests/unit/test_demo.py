"""The commands that the demo prints are those that a person can type; its service is asked once."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from msrrec import stage
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.engines.loopback import serve_on_loopback
from msrrec.errors import ConfigError, EngineError
from msrrec.models import write_settings
from msrrec.pipeline import demo
from msrrec.stage import Call
from tests.support.cli import Commands
from tests.support.dataset import write_dataset
from tests.support.models import write_safetensors
from tests.support.training import write_paths

WORKED: list[str] = []


def work(place: str) -> Any:
    """Stands for a stage's work: the least that later stages read."""
    name = place.rpartition(":")[2]

    def run(call: Call) -> dict[str, Any]:
        if name.startswith(("check", "probe")) or name.endswith("_settings"):
            return {}
        WORKED.append(name)
        out = Path(call.out)
        out.mkdir(parents=True, exist_ok=True)
        if name == "prepare":
            write_dataset(out, 12)
        elif name == "synthesize":
            write_paths(str(out), Dataset.load(call.inputs["dataset"]), 2)
        elif name == "train":
            write_model(out)
        elif name.startswith("evaluate"):
            (out / "predictions").mkdir()
            (out / "predictions" / "some.parquet").write_bytes(str(out).encode())
        return {"out": call.out}

    return run


def write_model(out: Path) -> None:
    (out / "merged").mkdir()
    (out / "merged" / "config.json").write_text("{}")
    write_safetensors(out / "merged" / "model.safetensors", (str(out),))
    write_settings(
        str(out), {"prompt": {"answer_format": "title"}, "domain": "Shop", "base_model": "embedded"}
    )


@contextlib.contextmanager
def no_ray(*_: Any) -> Iterator[None]:
    yield


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    WORKED.clear()
    monkeypatch.setattr(stage, "resolve_function", work)
    for module in (stage, demo):
        monkeypatch.setattr(module, "ray_session", no_ray)
    page = {"page": "index.html", "systems": [], "warnings": [], "findings": ["One finding."]}
    monkeypatch.setattr("msrrec.report.page.report_folder", lambda folder: page)


@pytest.mark.parametrize("settings", [(), ("train.lora.rank=4", "synthesis.tau=9")])
def test_every_command_that_the_demo_prints_finds_its_stage_finished(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    msrrec: Commands,
    stand_ins: None,
    settings: tuple[str, ...],
) -> None:
    answer = {"item": "Tent", "side": "user", "agreement": "agree"}
    answer |= {"reasoning": "It fits.", "perplexity": "1.5"}
    monkeypatch.setattr(demo, "ask_service", lambda *_: answer)
    monkeypatch.setattr(demo, "refuse_used_port", lambda *_: None)  # other tests may serve there
    ended = msrrec("demo", "--out", str(tmp_path / "a demo"), *settings)
    assert ended.code == 0
    assert ended.summary["answer"] == "Tent"
    assert "One finding." in ended.err
    printed = re.findall(r"\$ (msrrec .*)", ended.err)
    assert len(printed) == len(WORKED) == 13
    for line in printed:
        again = msrrec.type(line)
        assert (again.code, len(WORKED)) == (0, 13), again.err
        assert "is finished; skipped" in again.err, line


def ready_service() -> Starlette:
    """What the demo asks, without a model."""
    starting = iter([503, 200])

    async def ready(request: Request) -> JSONResponse:
        return JSONResponse({}, next(starting))

    async def recommend(request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse({"item": body["candidates"][0], "history": body["history"]})

    places = [Route("/readyz", ready), Route("/v1/recommend", recommend, methods=["POST"])]
    return Starlette(routes=places)


def test_the_service_is_asked_for_a_test_user_once_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path, 12)
    (tmp_path / "train.parquet").rename(tmp_path / "test.parquet")
    example = dataset.examples("test", 1)[0]
    with serve_on_loopback(ready_service()) as url:
        port = url.rpartition(":")[2]
        config = load_config(overrides=[f"serve.port={port}"])
        program = tmp_path / "service"
        program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        answer = demo.ask_service("model", dataset, config)
    assert answer["item"] == dataset.titles(example.candidates)[0]
    assert answer["history"] == dataset.titles(example.history)


def test_a_service_that_ends_at_once_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    config = load_config(overrides=["serve.port=9"])  # nothing listens there
    dataset = write_dataset(tmp_path, 12)
    with pytest.raises(EngineError, match="ended with exit code 1"):
        demo.ask_service("model", dataset, config)


def test_another_program_on_the_port_is_not_asked_in_place_of_the_model() -> None:
    with serve_on_loopback(ready_service()) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with pytest.raises(ConfigError, match=f"serve.port={port}: another program listens"):
            demo.refuse_used_port(host, int(port))
    demo.refuse_used_port(host, 9)
