"""What is lost besides workers at work: the node of a task, a sweep's, the driver, and all of Ray.

Each command goes on by itself or when it is submitted again, ends with the result of the run that
nothing happened to, and repeats no call beyond those in flight.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.data.sources.base import SMALL_BYTES
from msrrec.recommendations.rows import read_recommendations
from tests.support.amazon import amazon_lines
from tests.support.cluster_runs import CONCURRENCY, NUM_ACTORS, Site
from tests.support.nodes import Job, can_isolate
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_isolate(), reason="nodes of their own files need root"),
]

NUM_FILES = 8
BATCH_SIZE, NUM_ENGINES, NUM_SIDES = 4, 2, 2


def wait_in(job: Job, happens: Callable[[], object]) -> None:
    """Wait until something happens, which must be before the job ends."""
    wait_until(lambda: happens() or job.process.poll() is not None)
    assert job.process.poll() is None, job.log.read_text()[-6000:]


def succeed(job: Job) -> str:
    """The log of a job once it has succeeded."""
    code, log = job.wait()
    assert code == 0, log[-6000:]
    return log


def test_preparing_goes_on_when_a_node_is_lost_that_reads_files(site: Site, calm: str) -> None:
    lines = amazon_lines(200)["reviews"]
    body = lines * (1 + SMALL_BYTES // NUM_FILES // len(lines))  # the same events, counted once
    for number in range(NUM_FILES):
        name = f"many/reviews-{number}.json"
        site.store.client().put_object(Bucket=site.bucket, Key=name, Body=body)
    job = site.submit(
        *("jobs.prepare", "--source", "amazon", "--interactions", site.path("many/")),
        *("--items", site.path("raw/meta.json.gz"), "--out", site.path("lost/dataset")),
    )
    found: list[str] = []

    def reads() -> bool:
        found[:] = site.nodes.working("ray::MapBatches")
        return bool(found)

    wait_in(job, reads)
    site.nodes.kill(found[0])
    site.nodes.add_workers(1)
    succeed(job)
    for name in ("test", "train", "validation", "items", "users"):
        file = f"dataset/{name}.parquet"
        assert site.read(f"lost/{file}") == site.read(f"{calm}/{file}")


def test_a_sweep_goes_on_from_its_checkpoint_when_all_workers_are_lost(
    site: Site, calm: str
) -> None:
    job = site.submit(
        *("jobs.sweep", "--dataset", site.path(f"{calm}/dataset")),
        *("--reasoning", site.path(f"{calm}/reasoning"), "--out", site.path("sweep")),
        *("--variant", "user", "sweep.alphas=[0.7]"),  # as train.alpha
        *("evaluate.num_users=8", "inference.max_new_tokens=16", "inference.constrained=true"),
    )
    point = "sweep/alpha-0.7"
    wait_in(job, lambda: site.has_checkpoint(f"{point}/model"))
    assert site.nodes.working("RayTrainWorker")
    site.nodes.kill_workers()  # whether the trial's process is there or on the head
    site.nodes.add_workers(2)
    assert "train: resuming after step" in succeed(job)
    adapter = "model/adapter/adapter_model.safetensors"
    assert site.read(f"{point}/{adapter}") == site.read(f"{calm}/{adapter}")
    found = json.loads(site.read("sweep/sweep.json"))
    assert [row["num_users"] for row in found["points"]] == [8]
    assert not [name for name in site.names("sweep") if name.endswith(".lock")]


def test_synthesis_goes_on_when_ray_is_lost_with_its_head_and_the_job_is_submitted_again(
    site: Site, calm: str
) -> None:
    before, num_calls = site.teacher.answered(), site.num_calls(calm)
    site.teacher.latency_s = 0.5

    def begin() -> Job:
        names = ("--dataset", site.path(f"{calm}/dataset"), "--out", site.path("asked"))
        return site.submit("jobs.synthesize", *names)

    job = begin()
    wait_in(job, lambda: (site.teacher.answered() - before).total() > num_calls / 8)
    site.nodes.restart()
    job.leave()
    made = (site.teacher.answered() - before).total()
    succeed(begin())
    site.teacher.latency_s = 0.0
    asked = site.teacher.answered() - before
    assert made < num_calls == len(asked)
    # Those in flight, and those of the last second that were not in the bucket yet.
    assert asked.total() - len(asked) <= 2 * CONCURRENCY * NUM_ACTORS
    assert kept_paths(site, "asked") == kept_paths(site, f"{calm}/reasoning")


def kept_paths(site: Site, reasoning: str) -> list[dict[str, object]]:
    """The kept paths without the time and the line of each."""
    path = site.store.uri(site.bucket, f"{reasoning}/{schema.PATHS_FILE}")
    table = storage.read_table(path, schema.PATHS)
    rows: list[dict[str, object]] = table.drop_columns(["answered_at_s", "journal"]).to_pylist()
    return rows


def test_evaluation_goes_on_after_its_driver_and_all_of_ray_and_refuses_a_deadly_example(
    site: Site, calm: str, tmp_path: Path
) -> None:
    def begin(out: str, log: str, pause_s: float, poison: str = "") -> Job:
        return site.submit(
            *("tests.support.paced_job", "evaluate", str(tmp_path / log), str(pause_s), poison),
            *("--dataset", site.path(f"{calm}/dataset"), "--model", site.path(f"{calm}/model")),
            *("--out", site.path(out), "--variant", "user", "--variant", "item"),
            *(f"inference.batch_size={BATCH_SIZE}", f"inference.num_engines={NUM_ENGINES}"),
        )

    def num_batches() -> int:
        return len(site.names("answered.journal/0"))

    succeed(begin("quiet", "quiet.log", 0.0))
    poisoned, word = find_poison(site, calm)
    job = begin("answered", "seeds.log", 0.2, word)
    wait_in(job, lambda: num_batches() >= 2)
    end_driver(site, "tests.support.paced_job")
    assert job.wait()[0] != 0
    job, begun = begin("answered", "seeds.log", 0.2, word), num_batches()
    assert begun < 30
    wait_in(job, lambda: site.nodes.working("RecommendStage.generate"))
    wait_in(job, lambda: len((tmp_path / "seeds.log").read_text().split()) > 48)
    site.nodes.restart()
    job.leave()
    log = succeed(begin("answered", "seeds.log", 0.0, word))
    assert "1 examples killed their engines and got no answer" in log
    expected, found = (read_answers(site, out) for out in ("quiet", "answered"))
    refused = [key for key in expected if key[0] == poisoned]
    assert [found.pop(key)[0] for key in refused] == [None] * NUM_SIDES
    assert found == {key: row for key, row in expected.items() if key not in refused}
    seeds = Counter((tmp_path / "seeds.log").read_text().split())
    # Those in flight at the two losses, and in each of three runs those beside the deadly one.
    batch = BATCH_SIZE * NUM_SIDES
    assert sum(seeds.values()) - len(seeds) <= 2 * NUM_ENGINES * batch + 3 * batch


def test_recommending_for_everybody_goes_on_after_its_driver_and_all_workers(
    site: Site, calm: str, tmp_path: Path
) -> None:
    index = site.path("index")
    succeed(site.submit("jobs.index", "--dataset", site.path(f"{calm}/dataset"), "--out", index))

    def begin(out: str, log: str, pause_s: float) -> Job:
        return site.submit(
            *("tests.support.paced_job", "recommend", str(tmp_path / log), str(pause_s), ""),
            *("--dataset", site.path(f"{calm}/dataset"), "--model", site.path(f"{calm}/model")),
            *("--index", index, "--out", site.path(out)),
            *(f"inference.batch_size={BATCH_SIZE}", f"inference.num_engines={NUM_ENGINES}"),
        )

    def num_batches() -> int:
        return len(site.names("offers.journal/0"))

    succeed(begin("quiet-offers", "quiet.log", 0.0))
    job = begin("offers", "seeds.log", 0.5)
    wait_in(job, lambda: num_batches() >= 2)
    end_driver(site, "tests.support.paced_job")
    assert job.wait()[0] != 0
    job = begin("offers", "seeds.log", 0.5)
    wait_in(job, lambda: site.nodes.working("RecommendStage.generate"))
    site.nodes.kill_workers()
    site.nodes.add_workers(2)
    succeed(job)
    expected, found = (read_offers(site, out) for out in ("quiet-offers", "offers"))
    dataset = Dataset.load(site.store.uri(site.bucket, f"{calm}/dataset"))
    assert {row["user_id"] for row in found} == {user_id for user_id, _ in dataset.iter_events()}
    assert found == expected
    outputs = (tmp_path / "quiet.log").read_text().split()
    seeds = Counter((tmp_path / "seeds.log").read_text().split())
    # Those in flight at the two losses.
    repeated = seeds.total() - len(outputs)
    assert 0 <= repeated <= 2 * NUM_ENGINES * BATCH_SIZE * NUM_SIDES
    assert set(seeds) == set(outputs)


def read_offers(site: Site, offers: str) -> list[dict[str, object]]:
    """The rows of all offers, in order."""
    parts = read_recommendations(site.store.uri(site.bucket, offers))
    return [row for part in parts for row in part.to_pylist()]


def end_driver(site: Site, module: str) -> None:
    """Kill the process of a job that runs a module."""
    for number, command in site.nodes.processes("head").items():
        if command.startswith(f"python -m {module}"):
            os.kill(number, signal.SIGKILL)


def find_poison(site: Site, calm: str) -> tuple[str, str]:
    """An example that is evaluated, and a title that is in its history alone."""
    dataset = Dataset.load(site.store.uri(site.bucket, f"{calm}/dataset"))
    evaluated = {name for name, _ in read_answers(site, "quiet")}
    examples = [e for e in dataset.examples("test") if e.example_id in evaluated]
    titles = Counter(dataset.items[i].title for e in examples for i in set(e.history))
    return next(
        (e.example_id, title)
        for e in examples
        for title in (dataset.items[i].title for i in e.history)
        if titles[title] == 1
    )


def read_answers(site: Site, evaluation: str) -> dict[tuple[str, str], tuple[str | None, str]]:
    """The chosen item and the text, by example and side."""
    found = {}
    for side in ("user", "item"):
        path = site.store.uri(site.bucket, f"{evaluation}/predictions/{side}.parquet")
        for row in storage.read_table(path, schema.PREDICTIONS).to_pylist():
            found[row["example_id"], side] = (row[schema.ITEM_ID], row["text"])
    return found
