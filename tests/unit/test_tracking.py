import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from msrrec.config import RunConfig, TrackingConfig
from msrrec.errors import ConfigError
from msrrec.stage import SCORE, Call
from msrrec.tracking import check_tracking, read_figures, track
from tests.support.score import write_references, write_scored


class StandIn(ModuleType):
    """What MLflow is asked to keep."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.kept: dict[str, Any] = {}

    def set_tracking_uri(self, uri: str) -> None:
        self.kept["uri"] = uri

    def set_experiment(self, name: str) -> None:
        if self.kept["uri"] == "http://nobody":
            raise OSError("nobody is there")

    def start_run(self, run_name: str) -> "StandIn":
        self.kept["run"] = run_name
        return self

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        self.kept["ended"] = True

    def set_tag(self, key: str, value: str) -> None:
        self.kept[key] = value

    def log_params(self, values: dict[str, str]) -> None:
        self.kept["params"] = values

    def log_metrics(self, values: dict[str, float]) -> None:
        self.kept["metrics"] = values


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    return stand_in


def score(folder: Path, uri: str | None) -> dict[str, Any]:
    dataset, evaluation = write_scored(folder)
    references = write_references(folder / "paths", {"e0": "a", "e1": "a"})
    inputs = {"dataset": dataset.path, "evaluation": evaluation, "references": references}
    config = RunConfig(tracking=TrackingConfig(mlflow_uri=uri))
    return SCORE.run(Call(evaluation, config, inputs))


def test_a_finished_stage_is_a_run_with_its_settings_and_figures(
    tmp_path: Path, mlflow: StandIn
) -> None:
    summary = score(tmp_path, "sqlite:///runs.db")
    assert (mlflow.kept["uri"], mlflow.kept["run"]) == ("sqlite:///runs.db", "score")
    assert mlflow.kept["params"]["judge.votes"] == "3"
    expected = summary["variants"]["user"]["meteor"]["all"]["value"]
    assert mlflow.kept["metrics"]["variants.user.meteor.all.value"] == expected
    assert mlflow.kept["ended"]


def test_nothing_is_sent_unless_asked_for_or_where_nothing_was_done(
    tmp_path: Path, mlflow: StandIn
) -> None:
    score(tmp_path, None)
    score(tmp_path, "sqlite:///runs.db")  # it is finished, and the tracker no part of its identity
    assert mlflow.kept == {}


def test_a_tracker_that_fails_costs_a_warning_and_no_result(
    tmp_path: Path, mlflow: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert score(tmp_path, "http://nobody")["num_references"] == 2
    assert "tracking.mlflow_uri=http://nobody: nobody is there" in caplog.text


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'msrrec\[mlflow\]'"):
        check_tracking(TrackingConfig(mlflow_uri="sqlite:///x.db"))
    check_tracking(TrackingConfig())
    track(TrackingConfig(), "train", {}, {})


def test_figures_are_finite_numbers_under_names_that_mlflow_takes() -> None:
    flat = {"a@1": 2, "b.c": 0.5, "d": True, "e": "text", "f": float("nan"), "g": None}
    assert read_figures(flat) == {"a_1": 2.0, "b.c": 0.5}
