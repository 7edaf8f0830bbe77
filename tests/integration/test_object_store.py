"""The stages with every folder on an object store, beside the same run on a disk."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from msrrec import schema, storage
from msrrec.evaluation.results import EvaluationResult
from msrrec.models import ModelSource
from msrrec.pipeline.sweep import run_points
from msrrec.training.checkpoint import find_checkpoints, read_metrics
from tests.support.cli import Commands
from tests.support.object_store import ObjectStore
from tests.support.processes import wait_until, workers
from tests.support.training import settings_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

SETTINGS = ["train.num_epochs=1", "train.sides=[user]", "train.checkpoint_every_steps=1"]


def test_an_object_store_gives_what_a_disk_gives_though_training_was_killed(
    tmp_path: Path, object_store: ObjectStore, embedded_source: ModelSource, msrrec: Commands
) -> None:
    bucket = object_store.make_bucket()
    here, there = str(tmp_path / "runs"), object_store.uri(bucket, "runs")
    for root in (here, there):
        prepare_and_ask(msrrec, root)
    training = [*train(here), *settings_for(embedded_source.path, *SETTINGS)]
    assert msrrec(*training).code == 0
    training = [*train(there), *settings_for(embedded_source.path, *SETTINGS)]
    kept = kill_in_training(storage.join(there, "model"), training)
    ended = msrrec(*training)
    assert ended.code == 0, ended.err
    steps = ended.summary["steps"]
    assert 1 <= len(kept) < steps
    # their times too, so those steps were not done again
    assert read_metrics(storage.join(there, "model"))[: len(kept)] == kept
    for root in (here, there):
        evaluate_and_report(msrrec, root)
    same_contents(here, there)
    names = object_store.names(bucket)
    assert not [name for name in names if storage.is_leftover(name) or name.endswith(".lock")]
    assert not [name for name in names if "step-00999999" in name]
    assert not [name for name in names if b"secret" in object_store.read(bucket, name)]
    again = msrrec(*training)
    assert "is finished; skipped" in again.err


def prepare_and_ask(msrrec: Commands, root: str) -> None:
    dataset, reasoning = storage.join(root, "dataset"), storage.join(root, "reasoning")
    small = ("data.demo_users=40", "data.num_users=20", "data.k_core=1")
    for command in (
        ("prepare", "--source", "demo", "--out", dataset, *small),
        ("synthesize", "--dataset", dataset, "--out", reasoning),
    ):
        ended = msrrec(*command)
        assert ended.code == 0, ended.err
        assert "secret" not in ended.err + ended.out


def train(root: str) -> list[str]:
    names = ("dataset", "reasoning", "model")
    dataset, reasoning, model = (storage.join(root, name) for name in names)
    return ["train", "--dataset", dataset, "--reasoning", reasoning, "--out", model]


def kill_in_training(model: str, training: list[str]) -> list[Any]:
    """Kill the driver after its first checkpoint; the metrics of the last one."""
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "msrrec", *training, f"ray.address={address}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        wait_until(lambda: checkpoints_of(model) or driver.poll() is not None)
        driver.kill()
    wait_until(lambda: not list(workers(psutil.Process())))
    last = checkpoints_of(model)[-1]
    half = storage.join(storage.parent(last), "step-00999999", "adapter_model.safetensors")
    storage.write_bytes(half, b"half")
    return list(read_metrics(last))


def checkpoints_of(model: str) -> list[str]:
    folder = storage.join(model, "checkpoints")
    runs = [storage.join(folder, name) for name in storage.list_folders(folder)]
    return [checkpoint for run in runs for checkpoint in find_checkpoints(run)]


def evaluate_and_report(msrrec: Commands, root: str) -> None:
    names = ("dataset", "model", "evaluation")
    dataset, model, out = (storage.join(root, name) for name in names)
    few = ("evaluate.num_users=6", "inference.max_new_tokens=16", "inference.num_engines=1")
    asked = ("--dataset", dataset, "--model", model, "--out", out, "--variant", "user")
    for command in (("evaluate", *asked, *few), ("report", root)):
        ended = msrrec(*command)
        assert ended.code == 0, ended.err
    page = storage.read_bytes(storage.join(root, "report", "index.html"))
    assert b"HitRatio" in page
    assert not storage.exists(storage.beside(out, ".journal"))


def same_contents(here: str, there: str) -> None:
    for name in ("items", "users", "train", "validation", "test"):
        file = ("dataset", f"{name}.parquet")
        assert read(here, *file) == read(there, *file)
    assert chains(here) == chains(there) != []
    weights = [name for name in model_files(here) if name.endswith(".safetensors")]
    assert model_files(there) == model_files(here)
    assert len(weights) >= 2  # of the adapter and of the merged model
    for name in weights:
        assert read(here, "model", name) == read(there, "model", name)
    found = [EvaluationResult.load(storage.join(root, "evaluation")) for root in (here, there)]
    assert found[0].variants == found[1].variants
    assert found[0].dataset.fingerprint == found[1].dataset.fingerprint


def chains(root: str) -> list[tuple[str, list[str], str]]:
    """The kept paths without their times."""
    file = storage.join(root, "reasoning", schema.PATHS_FILE)
    rows = storage.read_table(file, schema.PATHS).to_pylist()
    return [(row["example_id"], row["steps"], row["item_id"]) for row in rows]


def model_files(root: str) -> list[str]:
    """The files of adapter and merged model."""
    names = [entry.name for entry in storage.walk(storage.join(root, "model"))]
    return [name for name in names if name.startswith(("adapter/", "merged/"))]


def read(root: str, *names: str) -> bytes:
    return storage.read_bytes(storage.join(root, *names))


def test_a_sweep_leaves_nothing_of_ray_tune_in_the_bucket(bucket: str) -> None:
    out = storage.join(bucket, "sweep")

    def run(alpha: float) -> None:
        storage.write_json(storage.join(out, f"{alpha}.json"), alpha)

    run_points(run, [0.3, 0.7], out, 2)
    assert [entry.name for entry in storage.walk(out)] == ["0.3.json", "0.7.json"]
