"""The runbook's stages on two nodes that share no files, with every folder in a bucket.

Run by ``make test-cluster``; it takes minutes, needs root for the nodes' namespaces, and is no part
of ``make test``.
"""

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.cluster_runs import CONCURRENCY, NUM_ACTORS, Site
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
    site: Site, calm: str
) -> None:
    before, num_calls = site.teacher.answered(), site.num_calls(calm)
    working: dict[str, list[str]] = {}

    def lose(title: str) -> None:
        """Lose every worker node while some of them work, and get two others."""
        working[title] = site.nodes.working(title)
        site.nodes.kill_workers()
        site.nodes.add_workers(2)

    site.teacher.latency_s = 1.5  # so that it is still asked when the nodes have been looked at
    marks: dict[str, Callable[[], object]] = {
        "TeacherActor": lambda: (site.teacher.answered() - before).total() > num_calls / 4,
        "RayTrainWorker": lambda: site.has_checkpoint("storm/model"),
        "RecommendStage": lambda: site.names("storm/evaluation.journal/0"),
    }
    watchers = [when(mark, partial(lose, title)) for title, mark in marks.items()]
    log = site.run_block("Stage by stage", "storm")
    site.teacher.latency_s = 0.0
    for watcher in watchers:
        watcher.join(1)
        assert not watcher.is_alive()
    assert all(working.values()), working
    assert "train: resuming after step" in log
    same_results(site, calm, "storm")
    repeated = (site.teacher.answered() - before).total() - num_calls
    # Those in flight, and those of the last second that were not in the bucket yet.
    assert repeated <= 3 * CONCURRENCY * NUM_ACTORS


def same_results(site: Site, calm: str, storm: str) -> None:
    """Datasets, adapters and figures are equal; nothing unfinished is left."""
    for name in ("dataset/test.parquet", "dataset/items.parquet"):
        assert site.read(f"{calm}/{name}") == site.read(f"{storm}/{name}")
    adapter = "model/adapter/adapter_model.safetensors"
    assert site.read(f"{calm}/{adapter}") == site.read(f"{storm}/{adapter}")
    assert site.figures(f"{calm}/evaluation") == site.figures(f"{storm}/evaluation")
    names = site.names("")
    left = [name for name in names if name.endswith((".lock", ".tmp")) or ".journal/" in name]
    assert not left
