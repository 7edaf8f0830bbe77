"""Commands on a real cluster that has no node but its head until they ask for one."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clusters import growing_cluster
from tests.support.dataset import write_dataset
from tests.support.training import save_base

pytestmark = pytest.mark.integration

GROUPS = {
    "cores": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    "gpus": {
        "resources": {"CPU": 1, "GPU": 1},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    },
}
TWO_GPUS = """
import ray
from msrrec import log
from msrrec.cluster import ray_session, wait_for_room
log.setup()
with ray_session(wait_s=120):
    wait_for_room(2, {"GPU": 1}, "train.num_workers=2")
    print(ray.get(ray.remote(num_gpus=1)(lambda: "ran on a GPU node").remote()))
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with growing_cluster(tmp_path_factory.mktemp("growing"), GROUPS) as env:
        yield env


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)


def test_commands_wait_for_nodes_and_refuse_in_one_sentence_after_the_limit(
    env: dict[str, str], tmp_path: Path
) -> None:
    dataset, base = tmp_path / "dataset", tmp_path / "base"
    save_base(str(base))
    dataset.mkdir()
    write_dataset(dataset, 12)
    named = ["--dataset", str(dataset), "--out", str(tmp_path / "reasoning")]
    done = run(env, "-m", "msrrec", "synthesize", *named, "ray.wait_s=120")
    assert done.returncode == 0, done.stderr
    assert "Ray's tasks: waiting for 1 × CPU; the cluster has 0; 0 s so far, up to 120" in (
        done.stderr
    )

    done = run(env, "-c", TWO_GPUS)
    assert "train.num_workers=2: waiting for 2 × GPU; the cluster has 0" in done.stderr
    assert "ran on a GPU node" in done.stdout

    named = ["--dataset", str(dataset), "--out", str(tmp_path / "model"), "train.arm=none"]
    wanted = [f"model.name_or_path={base}", "train.use_gpu=true", "train.num_workers=8"]
    done = run(env, "-m", "msrrec", "train", *named, *wanted, "ray.wait_s=2")
    assert done.returncode == 2, done.stderr
    assert (
        "msrrec: train.num_workers=8: the Ray cluster has room for 2 × GPU after 2 s "
        "(ray.wait_s); expected 8; ask for less, or start such nodes"
    ) in done.stderr
