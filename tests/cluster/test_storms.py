"""What is lost besides workers: the node of a task or a trial, the driver, and all of Ray.

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
from tests.support.amazon import amazon_lines
from tests.support.cluster_runs import CONCURRENCY, NUM_ACTORS, Stage
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


def lose_the_one_that_works(stage: Stage, job: Job, title: str) -> None:
    """Lose a worker node while a process with a title runs there, and get another one."""
    found: list[str] = []
    wait_in(job, lambda: found or found.extend(stage.nodes.working(title)))
    stage.nodes.kill(found[0])
    stage.nodes.add_workers(1)


def test_preparing_goes_on_when_a_node_is_lost_that_reads_files(stage: Stage, calm: str) -> None:
    lines = amazon_lines(200)["reviews"]
    body = lines * (1 + SMALL_BYTES // NUM_FILES // len(lines))  # the same events, counted once
    for number in range(NUM_FILES):
        name = f"many/reviews-{number}.json"
        stage.store.client().put_object(Bucket=stage.bucket, Key=name, Body=body)
    job = stage.submit(
        *("jobs.prepare", "--source", "amazon", "--interactions", stage.path("many/")),
        *("--items", stage.path("raw/meta.json.gz"), "--out", stage.path("lost/dataset")),
    )
    lose_the_one_that_works(stage, job, "ray::MapBatches")
    succeed(job)
    for name in ("test", "train", "validation", "items", "users"):
        file = f"dataset/{name}.parquet"
        assert stage.read(f"lost/{file}") == stage.read(f"{calm}/{file}")


def test_a_sweep_goes_on_when_the_node_of_its_trial_is_lost(stage: Stage, calm: str) -> None:
    job = stage.submit(
        *("jobs.sweep", "--dataset", stage.path(f"{calm}/dataset")),
        *("--reasoning", stage.path(f"{calm}/reasoning"), "--out", stage.path("sweep")),
        *("--variant", "user", "sweep.alphas=[0.7]"),  # as train.alpha
        *("evaluate.num_users=8", "inference.max_new_tokens=16", "inference.constrained=true"),
    )
    point = "sweep/alpha-0.7"
    wait_in(job, lambda: stage.names(f"{point}/model/checkpoints/"))
    lose_the_one_that_works(stage, job, "ImplicitFunc.train")
    succeed(job)
    adapter = "model/adapter/adapter_model.safetensors"
    assert stage.read(f"{point}/{adapter}") == stage.read(f"{calm}/{adapter}")
    found = json.loads(stage.read("sweep/sweep.json"))
    assert [row["num_users"] for row in found["points"]] == [8]
    assert not [name for name in stage.names("sweep") if name.endswith(".lock")]


def test_synthesis_goes_on_when_ray_is_lost_with_its_head_and_the_job_is_submitted_again(
    stage: Stage, calm: str
) -> None:
    before, num_calls = stage.teacher.answered(), stage.num_calls(calm)
    stage.teacher.latency_s = 0.5

    def begin() -> Job:
        names = ("--dataset", stage.path(f"{calm}/dataset"), "--out", stage.path("asked"))
        return stage.submit("jobs.synthesize", *names)

    job = begin()
    wait_in(job, lambda: (stage.teacher.answered() - before).total() > num_calls / 8)
    stage.nodes.restart()
    job.leave()
    made = (stage.teacher.answered() - before).total()
    succeed(begin())
    stage.teacher.latency_s = 0.0
    asked = stage.teacher.answered() - before
    assert made < num_calls == len(asked)
    # Those in flight, and those of the last second that were not in the bucket yet.
    assert asked.total() - len(asked) <= 2 * CONCURRENCY * NUM_ACTORS
    assert kept_paths(stage, "asked") == kept_paths(stage, f"{calm}/reasoning")


def kept_paths(stage: Stage, reasoning: str) -> list[dict[str, object]]:
    """The kept paths without the time and the line of each."""
    path = stage.store.uri(stage.bucket, f"{reasoning}/{schema.PATHS_FILE}")
    table = storage.read_table(path, schema.PATHS)
    rows: list[dict[str, object]] = table.drop_columns(["answered_at_s", "journal"]).to_pylist()
    return rows


def test_evaluation_goes_on_after_its_driver_and_all_of_ray_and_refuses_a_deadly_example(
    stage: Stage, calm: str, tmp_path: Path
) -> None:
    def begin(out: str, log: str, pause_s: float, poison: str = "") -> Job:
        return stage.submit(
            *("tests.support.paced_evaluation", str(tmp_path / log), str(pause_s), poison),
            *("--dataset", stage.path(f"{calm}/dataset"), "--model", stage.path(f"{calm}/model")),
            *("--out", stage.path(out), "--variant", "user", "--variant", "item"),
            *(f"inference.batch_size={BATCH_SIZE}", f"inference.num_engines={NUM_ENGINES}"),
        )

    def num_batches() -> int:
        return len(stage.names("answered.journal/0"))

    succeed(begin("quiet", "quiet.log", 0.0))
    poisoned, word = find_poison(stage, calm)
    job = begin("answered", "seeds.log", 0.2, word)
    wait_in(job, lambda: num_batches() >= 2)
    end_driver(stage, "tests.support.paced_evaluation")
    assert job.wait()[0] != 0
    job, begun = begin("answered", "seeds.log", 0.2, word), num_batches()
    assert begun < 10
    wait_in(job, lambda: stage.nodes.working("RecommendStage.generate"))
    wait_in(job, lambda: len((tmp_path / "seeds.log").read_text().split()) > 48)
    stage.nodes.restart()
    job.leave()
    log = succeed(begin("answered", "seeds.log", 0.0, word))
    assert "1 examples killed their engines and got no answer" in log
    expected, found = (read_answers(stage, out) for out in ("quiet", "answered"))
    refused = [key for key in expected if key[0] == poisoned]
    assert [found.pop(key)[0] for key in refused] == [None] * NUM_SIDES
    assert found == {key: row for key, row in expected.items() if key not in refused}
    seeds = Counter((tmp_path / "seeds.log").read_text().split())
    # Those in flight at the two losses, and in each of three runs those beside the deadly one.
    batch = BATCH_SIZE * NUM_SIDES
    assert sum(seeds.values()) - len(seeds) <= 2 * NUM_ENGINES * batch + 3 * batch


def end_driver(stage: Stage, module: str) -> None:
    """Kill the process of a job that runs a module."""
    for number, command in stage.nodes.processes("head").items():
        if command.startswith(f"python -m {module}"):
            os.kill(number, signal.SIGKILL)


def find_poison(stage: Stage, calm: str) -> tuple[str, str]:
    """An example that is evaluated, and a title that is in its history alone."""
    dataset = Dataset.load(stage.store.uri(stage.bucket, f"{calm}/dataset"))
    evaluated = {name for name, _ in read_answers(stage, "quiet")}
    examples = [e for e in dataset.examples("test") if e.example_id in evaluated]
    titles = Counter(dataset.items[i].title for e in examples for i in set(e.history))
    return next(
        (e.example_id, title)
        for e in examples
        for title in (dataset.items[i].title for i in e.history)
        if titles[title] == 1
    )


def read_answers(stage: Stage, evaluation: str) -> dict[tuple[str, str], tuple[str | None, str]]:
    """The chosen item and the text, by example and side."""
    found = {}
    for side in ("user", "item"):
        path = stage.store.uri(stage.bucket, f"{evaluation}/predictions/{side}.parquet")
        for row in storage.read_table(path, schema.PREDICTIONS).to_pylist():
            found[row["example_id"], side] = (row[schema.ITEM_ID], row["text"])
    return found
