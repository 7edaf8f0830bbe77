"""What validation chooses, and how an evaluation on test takes it."""

from pathlib import Path

import pytest

from msrrec import schema, storage
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation import evaluate as evaluation
from msrrec.evaluation.results import EvaluationResult
from msrrec.report.page import report_folder
from tests.support.evaluation import predict_here, write_evaluated_model, write_evaluated_users
from tests.support.models import write_safetensors


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_evaluated_users(tmp_path / "dataset")


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    return write_evaluated_model(tmp_path / "model")


def test_validation_chooses_a_route_that_test_takes(
    tmp_path: Path, dataset: Dataset, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "predict", predict_here)
    validation = load_config(overrides=["evaluate.split=validation"])
    place = str(tmp_path / "validation")
    summary = evaluation.evaluate(dataset, model_dir, place, validation, ("direct", "fused"))
    # Direct answers name the first candidate, right for 4 of 12; fusion is right for all. The right
    # title is the longest, so its answer is the least sure, and only a route that always thinks
    # reaches all hits.
    assert summary["route"]["is_chosen_here"]
    assert (summary["route"]["threshold"], summary["route"]["thinking"]) == (1.0, 1.0)
    assert summary["route"]["hit_ratio"] == 1.0
    test = load_config(overrides=[f"evaluate.gate={place}"])
    out = tmp_path / "routed"
    routed = evaluation.evaluate(dataset, model_dir, str(out), test, ("routed",))
    assert list(routed["variants"]) == ["direct", "routed"]
    assert routed["route"] == summary["route"] | {"is_chosen_here": False}
    page = report_folder(str(tmp_path / "routed"))
    told = next(sentence for sentence in page["findings"] if "With chains only where" in sentence)
    assert "100.0% of the users think" in told
    assert "that is better (p = 0.008) than never thinking (33.3% with" in told
    found = EvaluationResult.load(str(out))
    assert found.system.id == "msrrec-routed"
    assert found.generated_tokens["routed"] == pytest.approx(
        summary["route"]["tokens_per_user"], abs=0.05
    )
    assert [(pair.first, pair.second) for pair in found.paired] == [("routed", "direct")]
    assert found.paired[0].first_only == 8
    rows = storage.read_table(str(out / "predictions" / "routed.parquet"), schema.PREDICTIONS)
    assert set(rows["side"].to_pylist()) == {"user"}


def test_validation_chooses_a_temperature_that_test_takes(
    tmp_path: Path, dataset: Dataset, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "predict", predict_here)
    scored, place = "inference.candidate_logprobs=true", str(tmp_path / "validation")
    validation = load_config(overrides=["evaluate.split=validation", scored])
    summary = evaluation.evaluate(dataset, model_dir, place, validation, ("fused",))
    chosen = summary["calibration"]["fused"]
    assert chosen["temperature"] > 0
    assert EvaluationResult.load(place).calibration["fused"].is_chosen_here
    test = load_config(overrides=[f"evaluate.gate={place}", scored])
    taken = evaluation.evaluate(dataset, model_dir, str(tmp_path / "test"), test, ("fused",))
    assert taken["calibration"]["fused"]["temperature"] == chosen["temperature"]
    assert not EvaluationResult.load(str(tmp_path / "test")).calibration["fused"].is_chosen_here
    without = load_config(overrides=[scored])
    bare = evaluation.evaluate(dataset, model_dir, str(tmp_path / "bare"), without, ("fused",))
    assert bare["calibration"]["fused"]["temperature"] is None


def test_nothing_is_taken_from_the_validation_of_another_model(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "predict", predict_here)
    place, models = str(tmp_path / "validation"), {}
    for name in ("one", "other"):
        models[name] = write_evaluated_model(tmp_path / name)
        write_safetensors(tmp_path / name / "merged" / "model.safetensors", (name,))
    validation = load_config(overrides=["evaluate.split=validation"])
    evaluation.evaluate(dataset, models["one"], place, validation, ("direct", "fused"))
    test = load_config(overrides=[f"evaluate.gate={place}"])
    for name in models:
        evaluation.evaluate(dataset, models[name], str(tmp_path / "out"), test, ("direct", "fused"))
        routing = EvaluationResult.load(str(tmp_path / "out")).routing
        assert (routing is None) == (name == "other")


def test_a_route_without_a_threshold_is_refused_and_none_is_chosen_on_test(
    tmp_path: Path, dataset: Dataset, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "predict", predict_here)
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="routed: has no threshold"):
        evaluation.evaluate(dataset, model_dir, out, RunConfig(), ("routed",))
    evaluation.evaluate(dataset, model_dir, out, RunConfig(), ("direct", "fused"))
    assert EvaluationResult.load(out).routing is None
    given = load_config(overrides=["inference.route_threshold=1"])
    out = str(tmp_path / "given")
    evaluation.evaluate(dataset, model_dir, out, given, ("routed", "fused"))
    found = EvaluationResult.load(out)
    assert found.routing is not None
    assert (found.routing.thinking.value, found.routing.is_chosen_here) == (1.0, False)
    assert found.variants["routed"].hits == found.variants["fused"].hits
