"""Batch inference on a cluster of several nodes, of which some are lost."""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from msrrec.config import InferenceConfig
from msrrec.inference.batch import open_journal
from tests.support.batches import make_dataset, predict_all, predict_here
from tests.support.clusters import kill_node
from tests.support.engine import build_slow
from tests.support.processes import wait_until

pytestmark = pytest.mark.integration

CLUSTER = {
    "RAY_AUTH_MODE": "disabled",
    # A node is lost after five looks at it fail; one that is only slow has 10 s for each.
    "RAY_health_check_period_ms": "500",
}
DRIVER = """
import json, sys
from tests.integration.test_lost_engines import lose_engines
print(json.dumps(lose_engines(sys.argv[1])))
"""


def read_seeds(folder: str) -> list[list[str]]:
    """Process and seed of every request that an engine was asked so far."""
    return [line.split() for line in Path(folder, "seeds").read_text().splitlines()]


def lose_engines(folder: str) -> Any:
    """One run whose two engines are lost: one with its node, one by a signal to its process."""
    import ray
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(2)]
    ray.init(address=cluster.address)
    dataset, examples = make_dataset(100)
    config = InferenceConfig(batch_size=2, num_engines=2, gpus_per_engine=0)
    journal = open_journal(f"{folder}/journal", {}, config)
    asked: Any = (examples, dataset, ("user", "item"), config)
    with ThreadPoolExecutor() as threads:  # as Ray adds nodes in the main thread alone
        found = threads.submit(predict_all, *asked, partial(build_slow, f"{folder}/seeds"), journal)
        wait_until(lambda: len(list(Path(folder, "journal").glob("*.parquet"))) >= 4)
        # Where other programs want the cores, one engine may be long at work before the other.
        wait_until(lambda: found.done() or len({pid for pid, _ in read_seeds(folder)}) == 2)
        kill_node(cluster, nodes[1])
        wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        last, _ = read_seeds(folder)[-1]
        psutil.Process(int(last)).kill()
        predictions = found.result()
    lines = read_seeds(folder)
    repeated = [seed for seed, count in Counter(seed for _, seed in lines).items() if count > 1]
    ray.shutdown()
    cluster.shutdown()
    return {
        "num_engines": len({pid for pid, _ in lines}),
        "num_repeated": len(repeated),
        "is_equal": predictions == predict_here(*asked),
    }


def test_a_lost_node_and_a_killed_engine_cost_their_own_batches_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=os.environ | CLUSTER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["is_equal"]
    assert found["num_engines"] >= 3
    # Two batches of two examples with two sides were in flight.
    assert found["num_repeated"] <= 8
    assert "a machine was lost" in done.stderr
    assert "an engine died" in done.stderr
