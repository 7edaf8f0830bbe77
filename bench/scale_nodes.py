"""Measure how speed grows with the number of nodes, with stand-ins of a fixed latency.

    python -m bench.scale_nodes --nodes 1 2 4

Each number of nodes is a Ray cluster of its own on this machine: a head without workers, and nodes
of one core. Batch inference has an engine a node that sleeps for each batch, and synthesis an actor
a node whose calls go to a teacher that sleeps for each answer. So processors do not matter, and
what is measured is whether driver, pool and journal keep all of them busy.

``rows/s`` is the steady state: from the first moment at which every worker has begun until nothing
is left to hand out. ``of the latency's`` is their share of what the latency alone allows, and
``efficiency`` rows/s a node over those of the first number of nodes. ``whole`` is all rows over all
seconds, with starting actors and waiting for the last.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bench.synthesis import teacher_process, write_dataset
from msrrec import storage
from msrrec.config import InferenceConfig, PromptConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.errors import DataError
from msrrec.inference.fusion import SideOutput
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side

BATCH_SIZE, BATCH_S = 32, 0.5
"""Users a batch, and seconds that an engine takes for one."""
CONCURRENCY, CALL_S = 4, 0.2
"""Calls in flight of a node, and seconds that the teacher of ``bench.synthesis`` takes for one."""
LIMITS = {"inference": BATCH_SIZE / BATCH_S, "synthesis": CONCURRENCY / CALL_S}
"""Rows per second that the latency allows a node."""


@dataclass(frozen=True)
class Speed:
    """Rows per second of one run, see the module's text."""

    steady: float
    whole: float


class SleepyEngine(Recommender):
    """Sleeps for every batch, and notes in a file when it began and ended."""

    log = ""

    def generate_each(
        self, queries: Sequence[Query], sides: Sequence[Side]
    ) -> list[dict[Side, SideOutput | DataError]]:
        """The same output for every query."""
        begin = time.time()
        time.sleep(BATCH_S)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {begin} {time.time()} {len(queries)}\n")
        return [{side: SideOutput(side, "text", "", 0, 1.0, 1) for side in sides} for _ in queries]


def build_sleepy(log: str, source: ModelSource, config: InferenceConfig) -> Recommender:
    """What an engine's actor builds in place of vLLM."""
    engine = SleepyEngine(None, max_model_len=4096, form=PromptConfig(), config=config)
    engine.log = log
    return engine


def measure_inference(num_nodes: int, seconds: float, folder: Path) -> Speed:
    """Batch inference with an engine on each node."""
    from msrrec.inference.batch import open_journal, predict

    num_rows = int(seconds / BATCH_S) * BATCH_SIZE * num_nodes
    dataset = write_dataset(folder / "dataset", num_rows)
    config = InferenceConfig(batch_size=BATCH_SIZE, num_engines=num_nodes, gpus_per_engine=0)
    log = folder / "batches"
    begin = time.time()
    answered = predict(
        Partitions.split(list(dataset.examples("train")), 1000),
        dataset,
        ModelSource("sleepy", "/nowhere", None),
        ("user",),
        config,
        open_journal(str(folder / "journal"), {}, config),
        partial(build_sleepy, str(log)),
    )
    whole = num_rows / (time.time() - begin)
    assert sum(len(part) for part, _ in answered) == num_rows
    rows = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    workers = {row[0] for row in rows}
    since = max(min(b for pid, b, _, _ in rows if pid == worker) for worker in workers)
    until = max(b for _, b, _, _ in rows)
    return Speed(_rate([(b, e, n) for _, b, e, n in rows], since, until), whole)


def measure_synthesis(num_nodes: int, seconds: float, folder: Path) -> Speed:
    """Synthesis with an actor on each node."""
    from msrrec.synthesis.synthesize import synthesize

    num_rows = int(seconds * CONCURRENCY * num_nodes / CALL_S)
    dataset: Dataset = write_dataset(folder / "dataset", num_rows)
    with teacher_process(tail=False) as (url, log):
        settings = [f"teacher.base_url={url}", f"teacher.concurrency={CONCURRENCY}"]
        settings += ["teacher.model=stand-in", f"synthesis.num_actors={num_nodes}"]
        begin = time.monotonic()
        synthesize(dataset, str(folder / "out"), load_config(None, settings))
        whole = num_rows / (time.monotonic() - begin)
    begins = sorted(begin for begin, _, _ in log)
    since = begins[CONCURRENCY * num_nodes - 1]
    return Speed(_rate([(b, e, 1.0) for b, e, _ in log], since, begins[-1]), whole)


def _rate(rows: Sequence[tuple[float, float, float]], since: float, until: float) -> float:
    """Rows per second between two moments; what is begun outside counts by its share inside."""
    inside = sum(
        count * max(0.0, min(end, until) - max(begin, since)) / (end - begin)
        for begin, end, count in rows
    )
    return inside / (until - since)


STAGES: dict[str, Callable[[int, float, Path], Speed]] = {
    "inference": measure_inference,
    "synthesis": measure_synthesis,
}


def run_one(stage: str, num_nodes: int, seconds: float) -> Speed:
    """Measure on a cluster of so many nodes."""
    import ray
    from ray.cluster_utils import Cluster

    from msrrec.cluster import quiet_ray_data

    memory = {"object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    for _ in range(num_nodes):
        cluster.add_node(num_cpus=1, **memory)
    ray.init(address=cluster.address, logging_level="ERROR")
    quiet_ray_data()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return STAGES[stage](num_nodes, seconds, Path(folder))
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_apart(stage: str, num_nodes: int, seconds: float) -> Speed:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = f"{folder}/speed.json"
        asked = ["--stages", stage, "--nodes", str(num_nodes), "--seconds", str(seconds)]
        command = [sys.executable, "-m", "bench.scale_nodes", *asked, "--into", found]
        done = subprocess.run(
            command,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return Speed(**storage.read_object(found))


def main() -> None:
    """Print a table with a row for each stage and number of nodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=sorted(STAGES), default=sorted(STAGES))
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a run at best")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.into:
        found = run_one(given.stages[0], given.nodes[0], given.seconds)
        storage.write_json(given.into, asdict(found))
        return
    print("| stage | nodes | rows/s | of the latency's | efficiency | whole, rows/s |")
    print("|---|---|---|---|---|---|")
    for stage in given.stages:
        first: Speed | None = None
        for num_nodes in given.nodes:
            found = run_apart(stage, num_nodes, given.seconds)
            first = first or found
            share = given.nodes[0] / num_nodes
            cells = [
                *(stage, str(num_nodes), f"{found.steady:.1f}"),
                f"{found.steady / (LIMITS[stage] * num_nodes):.3f}",
                *(f"{share * found.steady / first.steady:.3f}", f"{found.whole:.1f}"),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
