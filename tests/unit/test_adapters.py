"""Several adapters share one base: each answers its domain, and none is taken for another."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from msrrec.config import InferenceConfig
from msrrec.engines.base import GenerationRequest
from msrrec.engines.lora import Loras, number_adapters
from msrrec.engines.vllm import engine_options
from msrrec.errors import ConfigError, EngineError, ModelError
from msrrec.models import ModelSource, locate_model
from serve.adapters import check_adapters, locate_adapters, name_adapters
from serve.metrics import merge, render
from serve.shop import Shop
from serve.stored import StoredOffers
from tests.support.cli import Commands
from tests.support.models import source_of, write_shards, write_trained
from tests.support.offers import make_offer, write_offers
from tests.support.service import World, events_of, together

ADAPTERS = {"Toys": "Toys and Games", "Books": "Books"}


@pytest.fixture
def world() -> World:
    return World(adapters=ADAPTERS)


def asked(world: World) -> list[str | None]:
    """The adapters that both engines were asked for since the last look."""
    found = [one.adapter for engine in (world.user, world.item) for one in engine.requests]
    world.user.requests.clear()
    world.item.requests.clear()
    return found


# Who answers


def test_the_domain_chooses_the_adapter_and_another_domain_gets_the_default_model(
    world: World,
) -> None:
    answers = {name: world.ask(domain=name).json()["model"] for name in ("Toys", "Books", "Hats")}
    assert asked(world) == ["Toys", "Books", None] * 2  # of the user's engine, then of the item's
    assert answers == {
        "Toys": {"name": "Toys model", "version": "v of Toys"},
        "Books": {"name": "Books model", "version": "v of Books"},
        "Hats": {"name": "tiny", "version": "v1"},
    }
    assert world.ask(domain=None).json()["model"]["name"] == "tiny"
    assert world.ask(domain="  tOYS ").json()["model"]["name"] == "Toys model"


@pytest.mark.parametrize("changes", [{"mode": "fast"}, {"top_k": 3}, {"stream": True, "top_k": 3}])
def test_likelihoods_and_streams_are_of_the_adapter_too(
    world: World, changes: dict[str, Any]
) -> None:
    answered = world.ask(domain="Toys", **changes)
    found = asked(world)
    assert set(found) == {"Toys"}
    assert len(found) == (1 if changes.get("mode") == "fast" else 4)  # outputs, and their scores
    if changes.get("stream"):
        assert events_of(answered)[-1][1]["model"]["name"] == "Toys model"


def test_an_adapters_prompts_call_the_shop_what_they_did_in_its_training(world: World) -> None:
    world.ask(domain="toys")
    prompt = "".join(map(chr, world.user.requests[0].prompt_ids))
    assert "Toys and Games" in prompt
    assert "toys" not in prompt


def test_equal_questions_of_two_adapters_share_neither_work_nor_answer() -> None:
    # Its prompts are those of the default model, so that nothing else tells them apart.
    world = World(adapters={"Toys": "Electronics"}, cache_ttl_s=60)
    pair = [{"domain": "Electronics"}, {"domain": "Toys"}]
    in_flight = [one.json() for one in together(world, pair)]
    assert [one["source"] for one in in_flight] == ["live", "live"]
    assert [one["model"]["name"] for one in in_flight] == ["tiny", "Toys model"]
    later = [world.ask(**one).json() for one in pair]
    assert [one["source"] for one in later] == ["cached", "cached"]
    assert [one["model"]["name"] for one in later] == ["tiny", "Toys model"]


def test_what_was_made_ahead_and_the_confidence_are_of_the_default_model(
    tmp_path: Path,
) -> None:
    folder = write_offers(tmp_path / "offers", [make_offer("anna", 1, "tent")])
    shop = Shop(100, stored=StoredOffers(folder))
    world = World(shop=shop, temperature=1.0, adapters=ADAPTERS)
    body = {"user_id": "anna"}
    stored = world.call("POST", "/v1/recommend", json=body).json()
    assert stored["source"] == "stored"
    live = world.call(
        "POST",
        "/v1/recommend",
        json={**body, "domain": "Toys", "candidates": ["Lens", "Rope"]},
    ).json()
    assert (live["source"], live["model"]["name"]) == ("live", "Toys model")
    assert live["confidence"] is None
    assert world.ask(domain="Hats").json()["confidence"] is not None


def test_models_and_metrics_tell_the_adapters_apart(world: World) -> None:
    listed = world.call("GET", "/v1/models").json()["data"]
    assert [(one["id"], one["version"], one["domain"]) for one in listed] == [
        ("tiny", "v1", "Shopping"),
        ("Toys model", "v of Toys", "Toys"),
        ("Books model", "v of Books", "Books"),
    ]
    world.ask(domain="Toys")
    merged = render(merge({("v1", "replica"): world.api.metrics.families()})).decode()
    assert 'answers_total{replica="replica",source="live",version="v of Toys"} 1.0' in merged
    assert 'requests_total{replica="replica",status="200",version="v1"} 1.0' in merged
    assert 'domain="Toys",name="Toys model",replica="replica",version="v of Toys"} 1.0' in merged


# Folders


@pytest.fixture
def base(tmp_path: Path) -> ModelSource:
    write_shards(tmp_path / "base")
    return source_of(str(tmp_path / "base"))


def test_folders_are_named_by_their_training_unless_told(
    tmp_path: Path, base: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = write_trained(tmp_path / "toys", base.path, "Toys and Games")
    assert name_adapters([toys, f"Books={toys}"]) == {"Toys and Games": toys, "Books": toys}
    given = ["Hats=s3://b/hats?region=eu"]
    assert name_adapters(given) == {"Hats": "s3://b/hats?region=eu"}
    monkeypatch.setattr("serve.adapters.read_settings", lambda _: {"domain": "Hats"})
    alone = "s3://b/hats?region=eu"
    assert name_adapters([alone]) == {"Hats": alone}


def test_an_adapter_is_put_on_the_base_of_the_service_wherever_that_lies(
    tmp_path: Path, base: ModelSource
) -> None:
    write_shards(tmp_path / "copy")
    folders = {
        name: write_trained(tmp_path / name, str(tmp_path / place), name)
        for name, place in (("toys", "base"), ("books", "copy"))
    }
    found = locate_adapters(folders, base)
    check_adapters(found)
    assert {name: one.path for name, one in found.items()} == dict.fromkeys(folders, base.path)
    assert found["books"].adapter == f"{folders['books']}/adapter"
    assert found["books"].domain == "books"


def test_merged_weights_are_left_where_adapters_share_the_base(
    tmp_path: Path, base: ModelSource
) -> None:
    folder = write_trained(tmp_path / "toys", base.path, "Toys")
    write_shards(tmp_path / "toys" / "merged")
    assert locate_model(folder).path == f"{folder}/merged"
    apart = locate_model(folder, merged=False)
    assert (apart.path, apart.adapter) == (base.path, f"{folder}/adapter")


def test_what_can_t_be_served_is_refused_in_one_sentence(tmp_path: Path, base: ModelSource) -> None:
    write_shards(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "qwen3"}')
    strange = write_trained(tmp_path / "strange", str(tmp_path / "other"), "Hats")
    large = write_trained(tmp_path / "large", base.path, "Hats", rank=1024)
    cases: list[tuple[dict[str, str], str]] = [
        ({"Hats": "runs/nowhere"}, r"adapter 'Hats': runs/nowhere: no such folder; expected"),
        ({"Hats": base.path}, r"adapter 'Hats': .*/base: holds no trained model; expected"),
        ({"Hats": strange}, r"strange was trained on .*/other, and this service runs .*/base"),
        ({"Hats": large}, r"rank 1024; expected at most 512"),
    ]
    for folders, message in cases:
        with pytest.raises(ModelError, match=message):
            check_adapters(locate_adapters(folders, base))
    twice = {"Hats": strange, "hats ": strange}
    for given in (["Hats=a", "hats =b"], ["Hats=a", f"{strange}"]):
        with pytest.raises(ConfigError, match="there are two for this domain"):
            name_adapters(given)
    with pytest.raises(ConfigError, match="adapter 'hats ': there are two"):
        locate_adapters(twice, base)
    with pytest.raises(ConfigError, match="domain is blank"):
        name_adapters(["=a"])
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        name_adapters(["runs/nowhere"])


def test_the_command_serves_what_its_options_name(
    monkeypatch: pytest.MonkeyPatch, msrrec: Commands
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("serve.app.run", lambda *_, **options: given.append(options["adapters"]))
    assert msrrec("serve", "--model", "m", "--adapter", "Toys=/toys").code == 0
    assert msrrec("serve", "--model", "m").code == 0
    assert given == [{"Toys": "/toys"}, {}]
    ended = msrrec("serve", "--model", "m", "--adapter", "a=/b", "--adapter", "A=/c")
    assert (ended.code, ended.sentence[:11]) == (2, "adapter 'A'")


# The engine


def test_the_engine_has_room_for_all_adapters_at_their_highest_rank(
    tmp_path: Path, base: ModelSource
) -> None:
    folders = {
        name: write_trained(tmp_path / name, base.path, name, rank=rank) + "/adapter"
        for name, rank in (("toys", 4), ("books", 20), ("own", 8))
    }
    model = SimpleNamespace(max_position_embeddings=2048)
    own = ModelSource("own", base.path, folders.pop("own"))
    options = engine_options(own, InferenceConfig(), model, on_gpu=True, adapters=folders)
    found = {name: options[name] for name in ("max_loras", "max_cpu_loras", "max_lora_rank")}
    assert found == {"max_loras": 3, "max_cpu_loras": 3, "max_lora_rank": 32}
    assert "enable_lora" not in engine_options(base, InferenceConfig(), model, on_gpu=True)


def test_each_adapter_has_a_name_of_its_own_in_the_engine() -> None:
    own = ModelSource("Toys", "base", "own")
    found = number_adapters(own, {"Toys": "toys", "Books": "books"})
    assert {name: one.folder for name, one in found.items()} == {
        "Toys": "toys",
        "Books": "books",
        None: "own",
    }
    assert len({one.name for one in found.values()}) == 3
    assert len({one.number for one in found.values()}) == 3


def test_an_adapter_that_the_engine_lacks_is_no_other() -> None:
    loras = Loras(ModelSource("m", "base", None), {"Toys": "toys"})
    request = GenerationRequest((1,), 0, 1, 0.0)
    assert loras.find(request) is None
    with pytest.raises(EngineError, match="'Hats': this engine was started without it"):
        loras.find(replace(request, adapter="Hats"))
