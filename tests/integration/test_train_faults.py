"""Whatever is killed while it trains, the adapter is that of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError, ModelError
from msrrec.models import locate_base
from msrrec.training.checkpoint import find_checkpoints, keep_checkpoint, read_metrics
from msrrec.training.loop import prepare_examples, train
from msrrec.training.worker import TrainingJob, run_steps
from tests.support.clusters import kill_node
from tests.support.dataset import write_dataset
from tests.support.processes import wait_until, workers
from tests.support.training import adapter_weights, make_config, settings_for, write_paths

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

NUM_STEPS = 75
SETTINGS = (
    "train.num_epochs=25",
    "train.num_workers=2",
    "train.checkpoint_every_steps=7",
    "train.lora.dropout=0.1",
    "train.export_merged=false",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eleven users, so three batches of four an epoch, the last of them smaller."""
    return write_dataset(tmp_path_factory.mktemp("dataset"), 11)


@pytest.fixture(scope="module")
def reasoning(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> str:
    folder = str(tmp_path_factory.mktemp("reasoning"))
    write_paths(folder, dataset, 6)
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    ray_local: None,
    tmp_path_factory: pytest.TempPathFactory,
    base: str,
    dataset: Dataset,
    reasoning: str,
) -> bytes:
    """The adapter of a run that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed")
    train(dataset, reasoning, str(out), make_config(base, *SETTINGS))
    return adapter_file(out)


def adapter_file(out: Path) -> bytes:
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


def checkpoints_of(out: Path) -> list[Path]:
    return [Path(c) for run in out.glob("checkpoints/run-*") for c in find_checkpoints(str(run))]


def latest_metrics(out: Path) -> list[dict[str, Any]]:
    """Of the last checkpoint; the next may remove it while it is read."""
    while True:
        try:
            return read_metrics(str(checkpoints_of(out)[-1]))
        except DataError:
            continue


def test_a_killed_worker_is_replaced_and_goes_on(
    tmp_path: Path, base: str, dataset: Dataset, reasoning: str, undisturbed: bytes
) -> None:
    kept: list[dict[str, Any]] = []

    def kill() -> None:
        wait_until(lambda: checkpoints_of(tmp_path))
        next(iter(workers(psutil.Process()))).send_signal(signal.SIGKILL)
        kept.extend(latest_metrics(tmp_path))

    killer = Thread(target=kill)
    killer.start()
    summary = train(
        dataset, reasoning, str(tmp_path), make_config(base, *SETTINGS, "train.max_failures=1")
    )
    killer.join()
    assert adapter_file(tmp_path) == undisturbed
    assert 7 <= len(kept) < summary["steps"] == NUM_STEPS
    # their times too, so those steps were not done again
    assert read_metrics(str(tmp_path))[: len(kept)] == kept
    assert [c.name for c in checkpoints_of(tmp_path)] == ["step-00000070", "step-00000075"]


def test_a_killed_driver_is_started_again_and_goes_on(
    tmp_path: Path, base: str, dataset: Dataset, reasoning: str, undisturbed: bytes
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "msrrec", "train", "--dataset", dataset.path]
    command += ["--reasoning", reasoning, "--out", str(tmp_path), f"ray.address={address}"]
    command += settings_for(base, *SETTINGS)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        wait_until(lambda: checkpoints_of(tmp_path))
        driver.kill()
    wait_until(lambda: not list(workers(psutil.Process())))
    half = checkpoints_of(tmp_path)[-1].with_suffix(".0.partial")
    half.mkdir()  # as if it was killed while it wrote
    kept = latest_metrics(tmp_path)
    done = subprocess.run(command, capture_output=True, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert adapter_file(tmp_path) == undisturbed
    assert 7 <= len(kept) < summary["steps"] == NUM_STEPS
    assert 0 < summary["steps_resumed"] < NUM_STEPS
    assert read_metrics(str(tmp_path))[: len(kept)] == kept
    assert not half.exists()


def test_a_diverging_loss_ends_the_run_at_once(
    tmp_path: Path, base: str, dataset: Dataset, reasoning: str
) -> None:
    config = make_config(
        base, "train.learning_rate=1e30", "train.max_failures=1000", "train.num_workers=2"
    )
    with pytest.raises(ModelError, match=r"^step \d+: the loss is nan; .*lower train\.learning"):
        train(dataset, reasoning, str(tmp_path), config)
    assert not (tmp_path / "adapter").exists()


CLUSTER = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # as users have it
    # A node is lost after five looks at it fail; one that is only slow has 10 s for each.
    "RAY_health_check_period_ms": "500",
}
DRIVER = """
import json, sys
from tests.integration.test_train_faults import lose_nodes
print(json.dumps(lose_nodes(*sys.argv[1:])))
"""


def lose_nodes(dataset: str, reasoning: str, replaced: str, left: str, *settings: str) -> Any:
    """Two runs on a cluster of two nodes; each loses one, which the first gets replaced."""
    import ray
    from ray.cluster_utils import Cluster

    resources = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=resources)
    nodes = [cluster.add_node(**resources)]
    ray.init(address=cluster.address)
    found = []
    for out, is_replaced, setting in (
        (replaced, True, "train.lora.dropout=0.1"),
        (left, False, "train.min_workers=1"),
    ):
        config = load_config(None, [*settings, setting])
        with ThreadPoolExecutor() as pool:  # as Ray adds nodes in the main thread alone
            training = pool.submit(train, Dataset.load(dataset), reasoning, out, config)
            wait_until(partial(checkpoints_of, Path(out)))
            kill_node(cluster, nodes[-1])
            kept = latest_metrics(Path(out))
            if is_replaced:
                nodes.append(cluster.add_node(**resources))
            else:
                wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)
                count_nodes()
            steps = training.result()["steps"]
        alive = sorted(node["Alive"] for node in ray.nodes())
        found.append({"steps": steps, "kept": kept, "alive": alive})
    ray.shutdown()
    cluster.shutdown()
    return found


def count_nodes() -> None:
    """Ray Train learns now what is left of the cluster, of which Ray tells it every 20 s."""
    import ray

    coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    ray.get(coordinator._tick.remote())


def train_alone(
    folder: Path, dataset: Dataset, reasoning: str, config: RunConfig
) -> dict[str, Any]:
    """The adapter of an undisturbed run, trained in this process without Ray."""
    from safetensors.torch import load_file

    source = locate_base(config.model, config.prompt)
    examples = prepare_examples(dataset, reasoning, source, config)
    job = TrainingJob(source, config.model.dtype, config.train)
    learner = job.make_learner(job.add_lora(job.load_base(on_gpu=False)), bfloat16=False)
    rows: list[Any] = []
    for number, _ in run_steps(learner, examples, None, 0, rows):
        done = number
    folder.mkdir()
    keep_checkpoint(str(folder), learner, done, rows)
    (checkpoint,) = find_checkpoints(str(folder))
    return dict(load_file(Path(checkpoint) / "adapter_model.safetensors"))


def test_a_run_goes_on_after_a_node_is_killed_on_its_replacement_or_on_what_is_left(
    tmp_path: Path, base: str, dataset: Dataset, reasoning: str, undisturbed: bytes
) -> None:
    import torch

    plain = [*SETTINGS, "train.lora.dropout=0"]  # dropout is each worker's own, so their number's
    replaced, left = (tmp_path / name for name in ("replaced", "left"))
    settings = settings_for(base, *plain, "train.max_failures=1")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, dataset.path, reasoning, replaced, left, *settings],
        env=os.environ | CLUSTER,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [run["alive"] for run in found] == [[False, True, True], [False, False, True]]
    for run, out in zip(found, (replaced, left), strict=True):
        assert 7 <= len(run["kept"]) < run["steps"] == NUM_STEPS
        assert read_metrics(str(out))[: len(run["kept"])] == run["kept"]
    assert adapter_file(replaced) == undisturbed
    expected = train_alone(tmp_path / "alone", dataset, reasoning, make_config(base, *plain))
    for name, weight in adapter_weights(left).items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0)
