"""A sweep on a real Ray Tune: its points alone, and the command with real training and answers."""

import os
from pathlib import Path

import pytest

from msrrec.errors import DataError
from msrrec.models import ModelSource
from msrrec.pipeline.sweep import run_points
from msrrec.report.results import SweepResult
from tests.support.cli import Commands
from tests.support.dataset import write_cycle
from tests.support.score import write_references
from tests.support.training import settings_for, write_paths

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def test_every_point_runs_once_and_what_one_raises_is_raised(tmp_path: Path) -> None:
    def run(alpha: float) -> None:
        with (tmp_path / f"{alpha}").open("a") as file:
            file.write("ran\n")

    run_points(run, [0.3, 0.7], str(tmp_path), 2)
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"0.3": "ran\n", "0.7": "ran\n"}

    def refuse(alpha: float) -> None:
        raise DataError(f"alpha {alpha}: refused")

    with pytest.raises(DataError, match=r"^alpha 0\.5: refused$"):
        run_points(refuse, [0.5], str(tmp_path), 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_point_whose_process_is_lost_is_started_again(tmp_path: Path) -> None:
    def run(alpha: float) -> None:
        lost = tmp_path / "lost"
        if not lost.exists():
            lost.touch()
            os._exit(1)
        (tmp_path / "ran").touch()

    run_points(run, [0.5], str(tmp_path), 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lost", "ran"]


def test_the_command_trains_and_evaluates_each_point_once(
    tmp_path: Path, embedded_source: ModelSource, msrrec: Commands
) -> None:
    dataset = write_cycle(tmp_path / "dataset", num_users=6)
    write_paths(str(tmp_path / "paths"), dataset, 3)
    out = tmp_path / "out"
    command = [
        *("sweep", "--dataset", dataset.path, "--reasoning", str(tmp_path / "paths")),
        *(
            "--out",
            str(out),
            "--variant",
            "user",
            "sweep.alphas=[0.25]",
        ),
        *settings_for(embedded_source.path, "train.num_epochs=1", "inference.max_new_tokens=16"),
    ]
    ended = msrrec(*command)
    assert ended.code == 0, ended.err
    assert ended.summary["best_alpha"] == {"user": 0.25}
    (point,) = SweepResult.load(str(out)).points
    assert (point.alpha, point.beta, point.num_users) == (0.25, 0.75, 6)
    assert point.loss_rea is not None
    assert point.variants["user"].hit_ratio.value == ended.summary["hit_ratio"]["user"]
    assert "0.25/0.75" in (out / "index.html").read_text()
    again = msrrec(*command)
    assert (again.code, again.summary) == (0, ended.summary)
    assert "is finished; skipped" in again.err
    right = {example.example_id: example.target for example in dataset.examples("validation")}
    references = write_references(tmp_path / "references", right)
    scoring = ["--references", references, f"evaluate.gptscore_model={embedded_source.path}"]
    scored = msrrec(*command, *scoring)
    assert (scored.code, scored.summary) == (0, ended.summary), scored.err
    assert f"train: {out / 'alpha-0.25' / 'model'} is finished; skipped" in scored.err
    (point,) = SweepResult.load(str(out)).points
    assert point.num_references == 6
    assert {*point.variants["user"].scores} == {"meteor", "gptscore_logprob"}
    assert (out / "index.html").read_text().count("<polyline") == 2
