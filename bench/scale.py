"""Measure how memory and time grow with the number of users, with stand-ins for models.

    python -m bench.scale --stage evaluate --users 1000 10000 100000

Each number of users is a process of its own, whose peak memory (resident set) is measured. Users
have random purchases of a small catalogue; the stand-in writes sixty words a side. Workers of Ray
are processes of their own and do not count: the column is the driver's.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from msrrec import schema
from msrrec.config import InferenceConfig, PromptConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.evaluation.evaluate import evaluate
from msrrec.inference.fusion import SideOutput
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from msrrec.titles import REASONING_END, REASONING_START

NUM_ITEMS = 5_000
CHUNK = 20_000
WORDS = ("The", "user", "buys", "for", "the", "home", "what", "lasts", "and", "is", "cheap")


def make_dataset(folder: Path, num_users: int) -> None:
    """A prepared dataset of random purchases, written a chunk of users at a time."""
    folder.mkdir(parents=True)
    titles = [f"{WORDS[n % len(WORDS)]} Product {n}" for n in range(NUM_ITEMS)]
    items = [{schema.ITEM_ID: f"i{n}", schema.TITLE: title} for n, title in enumerate(titles)]
    pq.write_table(pa.Table.from_pylist(items, schema.ITEMS), folder / "items.parquet")
    rng = random.Random(0)
    with (
        pq.ParquetWriter(folder / "test.parquet", schema.EXAMPLES) as test,
        pq.ParquetWriter(folder / "train.parquet", schema.EXAMPLES) as train,
        pq.ParquetWriter(folder / "validation.parquet", schema.EXAMPLES),
        pq.ParquetWriter(folder / "users.parquet", schema.USERS) as users,
    ):
        for begin in range(0, num_users, CHUNK):
            numbers = range(begin, min(begin + CHUNK, num_users))
            bought = [[f"i{i}" for i in rng.sample(range(NUM_ITEMS), 13)] for _ in numbers]
            for writer, row in ((test, _test_row), (train, _train_row), (users, _user_row)):
                rows = [row(n, items) for n, items in zip(numbers, bought, strict=True)]
                writer.write_table(pa.Table.from_pylist(rows, writer.schema))
    manifest = {
        "schema_version": schema.SCHEMA_VERSION,
        "domain": "Marketplace",
        "fingerprint": str(num_users),
        "source": "scale",
        "config": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _test_row(n: int, items: list[str]) -> dict[str, object]:
    """Seven purchases, and six candidates whose target is at each position equally often."""
    candidates = items[7:13]
    row = {"example_id": f"t{n}", schema.USER_ID: f"u{n}", "history": items[:7]}
    return row | {"target": candidates[n % 6], "candidates": candidates}


def _train_row(n: int, items: list[str]) -> dict[str, object]:
    row = {"example_id": f"r{n}", schema.USER_ID: f"u{n}", "history": items[:3]}
    return row | {"target": items[3], "candidates": [items[3], *items[7:9]]}


def _user_row(n: int, items: list[str]) -> dict[str, object]:
    return {schema.USER_ID: f"u{n}", "items": items[:8]}


class StandIn(Recommender):
    """Answers without a model: a chain of sixty words and the candidate that a hash picks."""

    def generate_each(
        self, queries: Sequence[Query], sides: Sequence[Side]
    ) -> list[dict[Side, SideOutput | DataError]]:
        """An output per side, which the query's key decides."""
        return [{side: _make_output(query, side) for side in sides} for query in queries]


def _make_output(query: Query, side: Side) -> SideOutput:
    rng = random.Random(f"{query.key} {side}")
    index = rng.randrange(len(query.candidates))
    reasoning = f"Step 1. Preference Summary: {' '.join(rng.choices(WORDS, k=60))}."
    answer = f"({index + 1}) {query.candidates[index]}"
    text = f"{REASONING_START}\n{reasoning}\n{REASONING_END}\n{answer}"
    return SideOutput(side, text, reasoning, index, 1 + rng.random(), 80)


def build_stand_in(source: ModelSource, config: InferenceConfig) -> Recommender:
    """What an engine's actor builds in place of vLLM."""
    return StandIn(None, max_model_len=4096, form=PromptConfig(), config=config)


def run_evaluate(dataset: Path, out: Path) -> None:
    """Evaluate both sides and their fusion."""
    from msrrec.cluster import ray_session

    config = load_config(None, ["inference.num_engines=2"])
    with ray_session(num_cpus=2):
        evaluate(
            Dataset.load(str(dataset)),
            "embedded",
            str(out),
            config,
            ("fused",),
            build=build_stand_in,
        )


STAGES: dict[str, Callable[[Path, Path], None]] = {"evaluate": run_evaluate}
"""What can be measured: from the folder of a dataset to a folder that is written."""


def measure(stage: str, num_users: int) -> dict[str, float]:
    """Peak memory and seconds of one stage in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "dataset")
        make_dataset(dataset, num_users)
        command = [sys.executable, "-m", "bench.scale", "--stage", stage, "--run", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def run_one(stage: str, folder: Path) -> None:
    """Run a stage in this process and print what it took."""
    before = _peak_mib()
    begin = time.monotonic()
    STAGES[stage](folder / "dataset", folder / "out")
    seconds = time.monotonic() - begin
    print(json.dumps({"seconds": seconds, "peak_mib": _peak_mib(), "before_mib": before}))


def _peak_mib() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a table with a row for each number of users."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=sorted(STAGES), default="evaluate")
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_one(given.stage, given.run)
        return
    print("| stage | users | driver's peak memory, MiB | seconds |")
    print("|---|---|---|---|")
    for num_users in given.users:
        found = measure(given.stage, num_users)
        row = f"{found['peak_mib']:,.0f} | {found['seconds']:,.0f}"
        print(f"| {given.stage} | {num_users:,} | {row} |", flush=True)


if __name__ == "__main__":
    main()
