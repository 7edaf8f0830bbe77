"""A replica of Fusion, made of what the application gives it, in front of engines without Ray."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ray.serve.exceptions import RayServeException

from msrrec.config import InferenceConfig, ServeConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.models import locate_model
from msrrec.retrieval.folder import save_index
from serve import app
from serve.adapters import Adapter, locate_adapters
from serve.app import build_next
from serve.args import AppArgs
from serve.engine import EngineReplica
from serve.fusion import Fusion
from serve.keys import Keys
from serve.rollout_cluster import Blueprint
from serve.rollout_http import RolloutRequest
from serve.version import ServedModel
from tests.support.models import write_trained
from tests.support.offers import make_offer, write_offers
from tests.support.retrieval import build_shop_index, write_shop_dataset
from tests.support.service import ASK
from tests.support.serving import FakeEngine

BODY: dict[str, Any] = {"history": ["Trail Camera"], "candidates": ["Lens", "Rope", "Kettle"]}


class Handle:
    """A handle of an engine deployment, whose calls are made at once."""

    deployment_name = "Engine"

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.requests: list[GenerationRequest] = []
        self.num_messages = 0
        self.generate = self.stream = self

    def options(self, *, stream: bool) -> "Handle":
        return _Streaming(self)

    def remote(self, asked: Any, request_id: str) -> Any:
        self.requests += asked
        self.num_messages += 1
        return asyncio.gather(*map(self.engine.generate, asked))


class _Streaming:
    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.stream = self

    def remote(self, asked: Any, request_id: str) -> AsyncIterator[list[tuple[int, Generation]]]:
        self.handle.requests += asked
        self.handle.num_messages += 1
        return EngineReplica(lambda: self.handle.engine).stream(asked, request_id)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer and a config, which is all that Fusion reads of a model."""
    from transformers import LlamaConfig

    from msrrec.embedded.backbone.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("base")
    train_tokenizer(["Lens Rope Kettle Trail Camera"] * 20).save_pretrained(folder)
    LlamaConfig(max_position_embeddings=2048).save_pretrained(folder)
    return str(folder)


def test_adapters_of_the_settings_reach_the_engine_and_the_answer(
    base: str, tmp_path: Path
) -> None:
    folders = {
        "Toys": write_trained(tmp_path / "toys", base, "Toys and Games"),
        "Books": write_trained(tmp_path / "books", base, "Books"),
    }
    settings = InferenceConfig(max_new_tokens=64)
    args = AppArgs(model_dir=base, adapters=folders, inference=settings)
    source = locate_model(base)
    adapters = [
        Adapter(domain, one, ServedModel(domain.lower(), f"version of {domain}"))
        for domain, one in locate_adapters(folders, source).items()
    ]
    handle = Handle(FakeEngine(base, str(tmp_path / "mark")))
    replica = Fusion(
        *(source, ServedModel("base", "v"), Blueprint(args, Keys(), build_next)),
        *(handle, handle, adapters),
    )
    transport = httpx.ASGITransport(replica.__serve_build_asgi_app__())

    async def go() -> list[str]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked: list[dict[str, Any]] = [
                {"domain": "Toys"},
                {"domain": "books", "stream": True},
                {"top_k": 2},
            ]
            return [(await client.post(ASK, json=BODY | one)).text for one in asked]

    answers = asyncio.run(go())
    assert handle.num_messages == 4  # both sides for each, then all candidates
    assert [one.adapter for one in handle.requests] == ["Toys"] * 2 + ["Books"] * 2 + [None] * 4
    for text, name in zip(answers, ("toys", "books", "base"), strict=True):
        assert f'"name":"{name}"' in text.replace(": ", ":")
    shop = handle.engine.tokenizer.decode(list(handle.requests[0].prompt_ids))
    assert "Toys and Games" in shop


@pytest.mark.parametrize(("share", "engines"), [(True, 1), (False, 2)])
def test_engines_are_chosen_by_what_is_under_way_to_them(
    base: str, share: bool, engines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, deployment = [], app.serve.deployment

    def keep(**options: Any) -> Any:
        made.append(options)
        return deployment(**options)

    monkeypatch.setattr(app.serve, "deployment", keep)
    args = AppArgs(model_dir=base, serve=ServeConfig(share_engine=share))
    app.assemble(
        Blueprint(args, Keys(), build_next), locate_model(base), lambda: FakeEngine("", "")
    )
    chosen = [one["request_router_config"] for one in made if "request_router_config" in one]
    assert [one.request_router_class for one in chosen] == ["msrrec.balancing.LeastBusy"] * engines


def test_the_next_version_is_told_where_the_changes_of_items_are(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_shop_index(write_shop_dataset(tmp_path / "data"), "purchases=all")
    save_index(built, str(tmp_path / "index"))
    desks: list[Blueprint] = []
    monkeypatch.setattr("serve.fusion.RayDesk", desks.append)
    args = AppArgs(model_dir=base, index=str(tmp_path / "index"))
    handle = Handle(FakeEngine(base, str(tmp_path / "mark")))
    model = ServedModel("base", "v")
    Fusion(locate_model(base), model, Blueprint(args, Keys(), build_next), handle, handle)  # type: ignore[arg-type]
    upcoming = desks[0].change(RolloutRequest(model=base, index="another"))
    assert upcoming.args.changes == f"{tmp_path}/index.changes/{built.version}"
    assert upcoming.args.index == "another"


def test_a_purchase_is_taken_although_other_replicas_can_not_be_told(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise RayServeException("no controller")

    found = SimpleNamespace(
        deployment="Fusion", app_name="app", replica_id=SimpleNamespace(unique_id="a")
    )
    monkeypatch.setattr("serve.fusion.serve.get_replica_context", lambda: found)
    monkeypatch.setattr("serve.fusion.serve.get_deployment_handle", fail)
    stored = write_offers(tmp_path / "offers", [make_offer("ann", 1, "stove")])
    args = AppArgs(model_dir=base, recommendations=stored, serve=ServeConfig(fusion_replicas=2))
    handle = Handle(FakeEngine(base, str(tmp_path / "mark")))
    model = ServedModel("base", "v")
    replica = Fusion(locate_model(base), model, Blueprint(args, Keys(), build_next), handle, handle)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(replica.__serve_build_asgi_app__(), raise_app_exceptions=False)

    async def go() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            told = await client.post("/v1/users/ann/purchases", json={"items": ["Stove"]})
            return told.status_code

    assert asyncio.run(go()) == 202
