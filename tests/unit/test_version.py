"""Answers name the model by its folder, and its version by all that decides them."""

import json
from pathlib import Path

import pytest

from msrrec.config import InferenceConfig, PromptConfig, RecommendConfig, ServeConfig
from msrrec.models import ModelSource
from serve.app import AppArgs
from serve.version import identify_service, name_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder as far as its identity is concerned."""
    made = tmp_path / "shoes" / "model"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "tokenizer.json").write_text(json.dumps({"a": 1}))
    return made


def version(
    folder: Path,
    inference: InferenceConfig | None = None,
    form: PromptConfig | None = None,
    recommend: RecommendConfig | None = None,
    adapter: str | None = None,
) -> str:
    source = ModelSource("model", str(folder), adapter, form or PromptConfig())
    return identify_service(source, inference or InferenceConfig(), recommend or RecommendConfig())


def test_a_folder_that_is_called_as_many_are_is_named_with_the_one_above(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name_model(str(folder)) == "shoes/model"
    assert name_model(f"{folder.parent}/") == "shoes"
    monkeypatch.chdir(folder.parent)
    assert name_model("model") == "shoes/model"
    assert name_model("s3://bucket/runs/hats/model?region=eu") == "hats/model"
    assert name_model("s3://bucket/hats") == "hats"


def test_what_is_no_folder_keeps_its_name_and_a_given_name_wins(folder: Path) -> None:
    assert name_model("embedded") == "embedded"
    assert name_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert name_model(str(folder), "shoes of spring") == "shoes of spring"


def test_a_version_changes_with_all_that_decides_an_answer(folder: Path) -> None:
    adapter = folder.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"adapter")
    found = [
        version(folder),
        version(folder, InferenceConfig(temperature=0.5)),
        version(folder, InferenceConfig(constrained=True)),
        version(folder, InferenceConfig(seed=3)),
        version(folder, form=PromptConfig(answer_format="title")),
        version(folder, recommend=RecommendConfig(num_candidates=5)),
        version(folder, recommend=RecommendConfig(confidence_temperature=1.5)),
        version(folder, adapter=str(adapter)),
    ]
    (folder / "tokenizer.json").write_text(json.dumps({"a": 2}))
    found.append(version(folder))
    (folder / "model.safetensors").write_bytes(b"others!")
    found.append(version(folder))
    assert len(set(found)) == len(found)


def test_a_version_stays_whatever_only_changes_speed_or_place(folder: Path) -> None:
    first = version(folder)
    assert len(first) == 16
    assert version(folder, InferenceConfig(kv_cache_gib=2, num_engines=3)) == first
    assert version(folder, recommend=RecommendConfig(top_k=3)) == first
    assert version(folder.rename(folder.with_name("moved"))) == first


def test_the_service_names_candidates_alone_unless_told() -> None:
    assert AppArgs(model_dir="m").answering == InferenceConfig(constrained=True)
    free = AppArgs(
        model_dir="m",
        serve=ServeConfig(constrained=False),
        inference=InferenceConfig(constrained=True, seed=4),
    )
    assert free.answering == InferenceConfig(seed=4)
