"""The runbook's stages on two nodes that share no files, with every folder in a bucket.

Run by ``make test-cluster``; it takes minutes, needs root for the nodes' namespaces, and is no part
of ``make test``.
"""

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.cluster_runs import CONCURRENCY, NUM_ACTORS, Stage
from tests.support.nodes import can_isolate

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_isolate(), reason="nodes of their own files need root"),
]


def when(happens: Callable[[], object], then: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something has happened."""

    def watch() -> None:
        while not happens():
            time.sleep(0.2)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_the_stages_survive_the_loss_of_all_workers_and_end_with_the_undisturbed_result(
    stage: Stage, calm: str
) -> None:
    before, num_calls = stage.teacher.answered(), stage.num_calls(calm)
    working: dict[str, list[str]] = {}

    def lose(title: str) -> None:
        """Lose every worker node while some of them work, and get two others."""
        working[title] = stage.nodes.working(title)
        stage.nodes.kill_workers()
        stage.nodes.add_workers(2)

    stage.teacher.latency_s = 0.5
    marks: dict[str, Callable[[], object]] = {
        "TeacherActor": lambda: (stage.teacher.answered() - before).total() > num_calls / 4,
        "RayTrainWorker": lambda: stage.names("storm/model/checkpoints/"),
        "RecommendStage": lambda: stage.names("storm/evaluation.journal/0"),
    }
    watchers = [when(mark, lambda title=title: lose(title)) for title, mark in marks.items()]
    stage.run_block("Stage by stage", "storm")
    for watcher in watchers:
        watcher.join(1)
        assert not watcher.is_alive()
    assert all(working.values()), working
    same_results(stage, calm, "storm")
    repeated = (stage.teacher.answered() - before).total() - num_calls
    # Those in flight, and those of the last second that were not in the bucket yet.
    assert repeated <= 3 * CONCURRENCY * NUM_ACTORS


def same_results(stage: Stage, calm: str, storm: str) -> None:
    """Datasets, adapters and figures are equal; nothing unfinished is left."""
    for name in ("dataset/test.parquet", "dataset/items.parquet"):
        assert stage.read(f"{calm}/{name}") == stage.read(f"{storm}/{name}")
    adapter = "model/adapter/adapter_model.safetensors"
    assert stage.read(f"{calm}/{adapter}") == stage.read(f"{storm}/{adapter}")
    assert stage.figures(f"{calm}/evaluation") == stage.figures(f"{storm}/evaluation")
    names = stage.names("")
    left = [name for name in names if name.endswith((".lock", ".tmp")) or ".journal/" in name]
    assert not left
