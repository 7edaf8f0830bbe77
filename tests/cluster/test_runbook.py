"""The runbook's stages on two nodes that share no files, with every folder in a bucket.

Run by ``make test-cluster``; it takes minutes, needs root for the nodes' namespaces, and is no part
of ``make test``.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.amazon import amazon_files
from tests.support.nodes import Nodes, can_isolate, running
from tests.support.object_store import ObjectStore
from tests.support.pages import runbook_commands

ROOT = Path(__file__).parents[2]
CONFIG = """\
data: {num_users: 60, k_core: 1}
model: {name_or_path: embedded}
prompt: {order: candidates_first, answer_format: number_title}
train: {num_epochs: 2, micro_batch_size: 8, sides: [full, user, item], checkpoint_every_steps: 2}
inference: {max_new_tokens: 96, max_model_len: 768, batch_size: 8, num_engines: 1}
evaluate: {num_users: 48}
ray: {wait_s: 120}
"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_isolate(), reason="nodes of their own files need root"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what jobs need, with a configuration for a small run."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("msrrec", "jobs", "serve"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "small.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    """A bucket with raw reviews."""
    name = object_store.make_bucket()
    for file, content in amazon_files(200).items():
        object_store.client().put_object(Bucket=name, Key=f"raw/{file}", Body=content)
    return name


@pytest.fixture(scope="module")
def nodes(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    hidden = tmp_path_factory.mktemp("hidden")
    env = {
        **object_store.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(hidden),
    }
    with running(tmp_path_factory.mktemp("nodes"), hidden, env) as found:
        yield found


def run_block(heading: str, run: str, bucket: str, nodes: Nodes, project: Path) -> str:
    """Run a block of the runbook with names of our own, from the project's folder; its output."""
    names = f"RAW=s3://{bucket}/raw RUN=s3://{bucket}/{run} CONFIG=small.yaml WORKERS=1"
    script = f"set -e\nexport {names}\n{runbook_commands()[heading]}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        env=nodes.env | {"RAY_API_SERVER_ADDRESS": nodes.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def when(happens: Callable[[], object], then: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something has happened."""

    def watch() -> None:
        while not happens():
            time.sleep(0.2)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_the_runbooks_stages_survive_lost_nodes_and_end_with_the_undisturbed_result(
    nodes: Nodes, bucket: str, object_store: ObjectStore, project: Path
) -> None:
    run_block("Stage by stage", "calm", bucket, nodes, project)
    marks = {
        "reasoning": "storm/reasoning/journal/",
        "model": "storm/model/checkpoints/",
        "evaluation": "storm/evaluation.journal/",
    }

    def lose(stage: str) -> None:
        """Lose the worker node that has stood longest, and get another one."""
        oldest = next(name for name in nodes.running if name != "head")
        nodes.kill(oldest)
        nodes.add(f"after-{stage}")

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in object_store.names(bucket))

    watchers = [
        when(lambda prefix=prefix: has(prefix), lambda stage=stage: lose(stage))
        for stage, prefix in marks.items()
    ]
    run_block("Stage by stage", "storm", bucket, nodes, project)
    for watcher in watchers:
        watcher.join(1)
        assert not watcher.is_alive()
    same_results(object_store, bucket, "calm", "storm")


def same_results(store: ObjectStore, bucket: str, calm: str, storm: str) -> None:
    """Datasets, adapters and figures are equal; nothing unfinished is left."""
    for name in ("dataset/test.parquet", "dataset/items.parquet"):
        assert store.read(bucket, f"{calm}/{name}") == store.read(bucket, f"{storm}/{name}")
    adapter = "model/adapter/adapter_model.safetensors"
    assert store.read(bucket, f"{calm}/{adapter}") == store.read(bucket, f"{storm}/{adapter}")
    figures = [read_figures(store, bucket, run) for run in (calm, storm)]
    assert figures[0] == figures[1]
    left = [n for n in store.names(bucket) if n.endswith((".lock", ".tmp")) or ".journal/" in n]
    assert not left


def read_figures(store: ObjectStore, bucket: str, run: str) -> object:
    """HitRatio@1, ValidRatio and the hash of outputs of each variant."""
    found = json.loads(store.read(bucket, f"{run}/evaluation/report/metrics.json"))
    return {
        name: {key: row[key] for key in ("hit_ratio", "valid_ratio", "outputs_hash")}
        for name, row in found["variants"].items()
    }
