"""A finished stage is known by the contents of its inputs and by its settings, never by paths."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from msrrec import stage, storage
from msrrec.config import load_config
from msrrec.errors import ConfigError, DataError
from msrrec.fingerprint import FINGERPRINTS
from msrrec.lock import locked
from msrrec.stage import STAGES, Call, Identity, Stage, resolve_function, run_once
from tests.support.dataset import write_dataset
from tests.support.training import write_paths

CALLS: list[str] = []


def count(call: Call) -> dict[str, Any]:
    """Stands for a stage's work."""
    CALLS.append(call.out)
    return {"out": call.out, "calls": len(CALLS)}


def refuse(call: Call) -> dict[str, Any]:
    raise DataError("no")


STAND_IN = Stage(
    "train",
    "tests.unit.test_stage:count",
    inputs=("dataset", "reasoning"),
    sections=("train",),
    needs_ray=False,
)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """A call on a real dataset and two real paths."""
    CALLS.clear()
    (tmp_path / "in").mkdir()
    dataset = write_dataset(tmp_path / "in", 12)
    (tmp_path / "paths").mkdir()
    write_paths(str(tmp_path / "paths"), dataset, 2)
    inputs = {"dataset": str(tmp_path / "in"), "reasoning": str(tmp_path / "paths")}
    return Call(str(tmp_path / "out"), load_config(), inputs)


def again(call: Call, **changes: Any) -> dict[str, Any]:
    settings = changes.pop("settings", ())
    config = load_config(overrides=settings)
    return STAND_IN.run(Call(call.out, config, {**call.inputs, **changes}))


def test_a_finished_stage_is_not_run_again_unless_told_to(call: Call) -> None:
    first = STAND_IN.run(call)
    assert STAND_IN.run(call) == first
    assert len(CALLS) == 1
    STAND_IN.run(call, overwrite=True)
    assert len(CALLS) == 2


def test_moved_folders_and_other_spellings_of_a_path_are_the_same_run(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    STAND_IN.run(call)
    monkeypatch.chdir(tmp_path)
    again(call, dataset="in", reasoning="./paths/")
    shutil.move(tmp_path / "in", tmp_path / "elsewhere")
    again(call, dataset=str(tmp_path / "elsewhere"))
    shutil.move(tmp_path / "out", tmp_path / "renamed")
    moved = STAND_IN.run(
        Call(str(tmp_path / "renamed"), call.config, {**call.inputs, "dataset": "elsewhere"})
    )
    assert len(CALLS) == 1
    assert moved["out"] == str(tmp_path / "renamed")


def test_a_new_synthesis_and_another_dataset_run_what_depends_on_them(
    call: Call, tmp_path: Path
) -> None:
    STAND_IN.run(call)
    from msrrec.data.dataset import Dataset

    write_paths(call.inputs["reasoning"], Dataset.load(call.inputs["dataset"]), 3)
    again(call)
    assert len(CALLS) == 2
    (tmp_path / "other").mkdir()
    write_dataset(tmp_path / "other", 13)
    again(call, dataset=str(tmp_path / "other"))
    assert len(CALLS) == 3


def test_an_edited_file_of_a_dataset_changes_its_fingerprint(call: Call) -> None:
    from msrrec.data.dataset import Dataset, hash_files

    path = call.inputs["dataset"]
    names = ["items.parquet", "train.parquet", "users.parquet"]
    files = {name: f"{path}/{name}" for name in names}
    manifest = storage.read_json(f"{path}/manifest.json") | hash_files(files)
    storage.write_json(f"{path}/manifest.json", manifest)
    assert Dataset.load(path).fingerprint == manifest["fingerprint"]
    before = FINGERPRINTS["dataset"](path, call)
    table = storage.read_table(
        f"{path}/train.parquet", stage.storage.pq.read_schema(f"{path}/train.parquet")
    )
    storage.write_table(f"{path}/train.parquet", table.slice(1))
    assert FINGERPRINTS["dataset"](path, call) != before


def test_other_settings_are_refused_by_name_and_those_of_speed_are_not(call: Call) -> None:
    STAND_IN.run(call)
    again(call, settings=["train.log_every_steps=3", "train.gradient_checkpointing=true"])
    with pytest.raises(DataError, match=r"train\.lora\.rank was 8, now 4"):
        again(call, settings=["train.lora.rank=4"])
    assert len(CALLS) == 1


def test_another_revision_of_the_code_runs_again(call: Call) -> None:
    from dataclasses import replace

    STAND_IN.run(call)
    replace(STAND_IN, revision=2).run(call)
    assert len(CALLS) == 2


def test_a_folder_of_another_stage_is_refused(call: Call) -> None:
    run_once(call.out, Identity("evaluate", {}, {}), dict)
    with pytest.raises(DataError, match="holds the result of `msrrec evaluate`"):
        STAND_IN.run(call)


def test_a_failed_stage_leaves_no_record(call: Call) -> None:
    from dataclasses import replace

    with pytest.raises(DataError, match="no"):
        replace(STAND_IN, work="tests.unit.test_stage:refuse").run(call)
    assert not storage.exists(storage.join(call.out, storage.RECORD))


def test_a_rerun_that_is_killed_does_not_look_finished(call: Call) -> None:
    from dataclasses import replace

    STAND_IN.run(call)
    broken = replace(STAND_IN, work="tests.unit.test_stage:refuse")
    with pytest.raises(DataError, match="no"):
        replace(broken, keeps=True).run(call, overwrite=True)
    assert storage.exists(storage.join(call.out, storage.RECORD))  # the old result is whole
    with pytest.raises(DataError, match="no"):
        broken.run(call, overwrite=True)
    assert not storage.exists(storage.join(call.out, storage.RECORD))


def test_a_second_process_in_one_folder_is_told_before_it_does_anything(call: Call) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom msrrec.lock import locked\n"
        f"with locked({call.out!r}):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match=rf"process {holder.pid} on .* is writing there"):
        STAND_IN.run(call)
    assert CALLS == []
    holder.kill()
    holder.wait()
    STAND_IN.run(call)  # a lock dies with its process
    assert len(CALLS) == 1
    assert not Path(call.out + ".lock").exists()


def test_who_may_wait_for_a_lock_gets_it_when_its_holder_is_done(tmp_path: Path) -> None:
    out, order = str(tmp_path / "out"), []

    def wait() -> None:
        with locked(out, waits=True):
            order.append("waited")

    waiting = threading.Thread(target=wait)
    with locked(out):
        waiting.start()
        waiting.join(0.2)
        order.append("held")
    waiting.join()
    assert order == ["held", "waited"]
    assert not list(tmp_path.iterdir())


def test_a_lock_is_free_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(str(tmp_path / "out")):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_an_output_folder_that_can_not_be_made_is_refused_first(
    call: Call, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" if place == "a file" else tmp_path / "file" / "out"
    with pytest.raises(DataError, match="is a file"):
        STAND_IN.run(Call(str(out), call.config, call.inputs))
    assert CALLS == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_input_is_refused_before_the_work(call: Call, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*manifest\.json"):
        again(call, dataset=str(tmp_path / "nowhere"))
    assert CALLS == []


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.work)
def test_every_row_of_the_table_leads_to_its_work_and_knows_its_inputs(row: Stage) -> None:
    assert callable(resolve_function(row.work))
    if row.check:
        assert callable(resolve_function(row.check))
    assert set(row.inputs) <= set(FINGERPRINTS)
    if row.further:
        assert callable(resolve_function(row.further))
    call = Call("out", load_config(), options={"system": "popularity"})
    identity = row.identity(call)
    assert identity.stage == row.name


def test_training_without_reasoning_or_a_model_is_refused_before_ray_starts(call: Call) -> None:
    inputs = {"dataset": call.inputs["dataset"]}
    with pytest.raises(ConfigError, match="--reasoning"):
        stage.TRAIN.run(Call(call.out, call.config, inputs))


def test_a_setting_that_names_a_folder_counts_by_its_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    settings = [
        stage.decisive_settings(
            load_config(overrides=[f"model.name_or_path={tmp_path / name}"]), "model"
        )
        for name in ("one", "two")
    ]
    assert settings[0] == settings[1]
    (tmp_path / "two" / "config.json").write_text("{ }")
    changed = load_config(overrides=[f"model.name_or_path={tmp_path / 'two'}"])
    assert stage.decisive_settings(changed, "model") != settings[0]
