"""Checkpoints of a run: which are whole, which are kept, which is best."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from msrrec.training import checkpoint
from msrrec.training.checkpoint import best_step, find_checkpoints, is_stalled, keep_checkpoint

LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0, 10: 1.5}


def rows_until(step: int) -> list[dict[str, Any]]:
    return [{"step": n, "loss": 9.0} | validation(n) for n in range(1, step + 1)]


def validation(step: int) -> dict[str, float]:
    return {"validation_loss": LOSSES[step]} if step in LOSSES else {}


def save_nothing(folder: str, learner: Any, steps_done: int, rows: Any) -> None:
    (Path(folder) / "adapter_config.json").write_text("{}")


def test_the_best_step_is_the_first_with_the_least_validation_loss() -> None:
    assert best_step(rows_until(3)) == 2
    assert best_step(rows_until(10)) == 4
    assert best_step(rows_until(1)) is None


@pytest.mark.parametrize(
    ("step", "patience", "stalled"),
    [(4, 1, False), (6, 1, True), (6, 2, False), (8, 2, True), (10, 3, True), (10, 0, False)],
)
def test_a_run_stalls_when_validations_in_a_row_bring_no_lower_loss(
    step: int, patience: int, stalled: bool
) -> None:
    assert is_stalled(rows_until(step), patience) is stalled


def test_the_last_two_and_the_best_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "save_checkpoint", save_nothing)
    learner: Any = None
    for step in (2, 4, 6, 8, 10):
        keep_checkpoint(str(tmp_path), learner, step, rows_until(step))
    assert [Path(c).name for c in find_checkpoints(str(tmp_path))] == [
        "step-00000004",
        "step-00000008",
        "step-00000010",
    ]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: str, learner: Any, steps_done: int, rows: Any) -> None:
        save_nothing(folder, learner, steps_done, rows)
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_checkpoint", fail)
    learner: Any = None
    with pytest.raises(OSError, match="disk full"):
        keep_checkpoint(str(tmp_path), learner, 2, [])
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_leaves_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-00000004.1a2b3c4d.partial").mkdir()
    (tmp_path / "step-00000002").mkdir()
    assert [Path(c).name for c in find_checkpoints(str(tmp_path))] == ["step-00000002"]
    checkpoint.remove_incomplete(str(tmp_path))
    assert [c.name for c in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(("done", "resumed"), [(None, 0), (6, 6), (12, 12)])
def test_a_run_tells_the_steps_that_a_killed_one_had_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int | None, resumed: int
) -> None:
    from msrrec.training import loop  # Ray, seconds to import

    run = tmp_path / "checkpoints" / "run"
    if done:
        (run / f"step-{done:08d}").mkdir(parents=True)
    monkeypatch.setattr(loop, "run_name", lambda *_: "run")
    monkeypatch.setattr(loop, "is_finished", lambda last, *_: last.endswith("12"))
    monkeypatch.setattr(loop, "run_workers", lambda *_, **__: (run / "step-00000012").mkdir())
    examples, job = SimpleNamespace(units=[0]), SimpleNamespace(config=None)
    found = loop.fit(job, examples, None, str(tmp_path), on_gpu=False)  # type: ignore[arg-type]
    assert found == (str(run / "step-00000012"), resumed)
