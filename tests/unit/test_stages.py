"""Finished stages are recognised, other settings refused, failures leave no record."""

from pathlib import Path

import pytest

from msrrec import storage
from msrrec.errors import DataError
from msrrec.stage import run_stage


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    out, calls = str(tmp_path / "stage"), []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"answer": 42}

    first = run_stage("prepare", out, {"seed": 0}, work)
    second = run_stage("prepare", out, {"seed": 0}, work)
    assert first == second == {"answer": 42}
    assert len(calls) == 1
    run_stage("prepare", out, {"seed": 0}, work, overwrite=True)
    assert len(calls) == 2


def test_tuples_and_lists_are_the_same_setting(tmp_path: Path) -> None:
    out = str(tmp_path / "stage")
    run_stage("train", out, {"train": {"sides": ("full",)}}, dict)
    run_stage("train", out, {"train": {"sides": ["full"]}}, lambda: pytest.fail("ran again"))


def test_other_settings_in_a_finished_folder_are_refused_by_name(tmp_path: Path) -> None:
    out = str(tmp_path / "stage")
    run_stage("prepare", out, {"data": {"seed": 0}}, dict)
    with pytest.raises(DataError, match=r"data\.seed was 0, now 1"):
        run_stage("prepare", out, {"data": {"seed": 1}}, dict)
    with pytest.raises(DataError, match="msrrec prepare"):
        run_stage("train", out, {"data": {"seed": 0}}, dict)


def test_a_failed_stage_leaves_no_record(tmp_path: Path) -> None:
    out = str(tmp_path / "stage")

    def fail() -> dict[str, int]:
        raise DataError("no")

    with pytest.raises(DataError):
        run_stage("prepare", out, {}, fail)
    assert not storage.exists(storage.join(out, "run.json"))
