"""One command runs all stages, goes on where it ended, and refuses early what would fail late."""

import os
import re
import signal
from pathlib import Path

import pytest

from msrrec.errors import ModelError
from msrrec.pipeline import pipeline
from msrrec.stage import STAGES
from tests.support.cli import Commands, Ended
from tests.support.stages import StandIns, put_stand_ins

ALL = ["prepare", "synthesize", "train", "evaluate"]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return put_stand_ins(monkeypatch, pipeline)


def run(msrrec: Commands, out: Path, *more: str) -> Ended:
    return msrrec("pipeline", "--source", "demo", "--out", str(out), *more)


def test_stages_run_in_order_into_folders_below_out_and_are_skipped_afterwards(
    tmp_path: Path, msrrec: Commands, stand_ins: StandIns
) -> None:
    first = run(msrrec, tmp_path)
    assert first.code == 0, first.err
    assert stand_ins.worked == ALL
    assert list(first.summary["stages"]) == [*ALL, "report"]
    assert first.summary["page"] == "index.html"
    folders = ("dataset", "reasoning", "model", "evaluation")
    assert all((tmp_path / name / "run.json").is_file() for name in folders)
    assert f'train: {{"out": "{tmp_path}/model"}}' in first.err
    again = run(msrrec, tmp_path)
    assert stand_ins.worked == ALL
    assert again.err.count("is finished; skipped") == len(ALL)
    assert again.summary["stages"] == first.summary["stages"]
    printed = re.findall(r"\$ (msrrec .*)", first.err)
    assert len(printed) == len(ALL)
    for line in printed:
        assert "is finished; skipped" in msrrec.type(line).err, line


def test_references_are_made_and_scored_against_on_request(
    tmp_path: Path, msrrec: Commands, stand_ins: StandIns
) -> None:
    ended = run(msrrec, tmp_path, "--score", "evaluate.num_users=7")
    assert ended.code == 0, ended.err
    assert stand_ins.worked == [*ALL, "synthesize", "score"]
    assert list(ended.summary["stages"])[-3:] == ["synthesize references", "score", "report"]
    assert "synthesis.num_examples=7" in ended.err
    assert (tmp_path / "references" / "run.json").is_file()
    refused = run(msrrec, tmp_path / "other", "--score", "synthesis.split=test")
    assert refused.code == 2
    assert "is the split that is evaluated" in refused.sentence


def test_a_failed_stage_leaves_the_others_and_is_where_the_next_run_begins(
    tmp_path: Path, msrrec: Commands, stand_ins: StandIns
) -> None:
    def fail(name: str) -> None:
        if name == "train":
            raise ModelError("model: is broken; expected another; use it")

    stand_ins.before = fail
    ended = run(msrrec, tmp_path)
    assert (ended.code, ended.sentence) == (2, "model: is broken; expected another; use it")
    stand_ins.before = lambda name: None
    assert run(msrrec, tmp_path).code == 0
    assert stand_ins.worked == ALL


def test_a_stopped_job_ends_with_a_sentence_and_goes_on_when_submitted_again(
    tmp_path: Path, msrrec: Commands, stand_ins: StandIns
) -> None:
    def stop(name: str) -> None:
        if name == "synthesize":
            os.kill(os.getpid(), signal.SIGTERM)

    stand_ins.before = stop
    ended = run(msrrec, tmp_path)
    assert (ended.code, stand_ins.worked) == (143, ["prepare"])
    assert ended.sentence == "stopped; run the same command again to continue"
    stand_ins.before = lambda name: None
    assert run(msrrec, tmp_path).code == 0
    assert stand_ins.worked == ALL


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("teacher.base_url=https://api.example/v1", "TEACHER_API_KEY"),
        ("model.name_or_path=/nowhere/model", "no such folder"),
    ],
)
def test_a_missing_key_or_model_is_refused_before_the_first_stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    msrrec: Commands,
    stand_ins: StandIns,
    setting: str,
    expected: str,
) -> None:
    monkeypatch.delenv("TEACHER_API_KEY", raising=False)
    ended = run(msrrec, tmp_path, setting)
    assert (ended.code, stand_ins.worked) == (2, [])
    assert expected in ended.sentence


def test_the_id_of_the_submitted_job_is_in_every_run_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, msrrec: Commands, stand_ins: StandIns
) -> None:
    monkeypatch.setenv(
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        '{"metadata": {"job_submission_id": "raysubmit_7"}, "env_vars": {"KEY": "secret"}}',
    )
    assert run(msrrec, tmp_path).code == 0
    records = [path.read_text() for path in sorted(tmp_path.glob("*/run.json"))]
    assert len(records) == len(ALL) < len(STAGES)
    assert all('"submission_id": "raysubmit_7"' in text for text in records)
    assert not any("secret" in text for text in records)
