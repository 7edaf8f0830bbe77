"""Generated inputs of every stage for any number of users, written in chunks.

Each user has purchases of a small catalogue; sixty words stand for a chain. What a teacher is paid
for is there for the first 100,000 users alone, as more chains than that are seldom bought.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msrrec import schema, storage
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.evaluation.hits import HITS
from msrrec.evaluation.systems import SystemId
from msrrec.evaluation.write import EvaluatedPart, Evaluation, write_evaluation
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction
from msrrec.reasoning.prompts import (
    project_steps,
    render_answer,
    render_output,
    render_reasoning,
)
from msrrec.schema import Example, Split
from msrrec.synthesis.journal import FOLDER, JournalEntry, Sampling
from msrrec.synthesis.requests import TeacherRequest, build_requests

NUM_ITEMS = 5_000
NUM_EVENTS = 13
CHUNK = 20_000
NUM_PAID = 100_000
"""Users with an answer of a teacher, at most."""
NUM_JOURNAL_FILES = 8
WORDS = ("The", "user", "buys", "for", "the", "home", "what", "lasts", "and", "is", "cheap")
TEACHER = Sampling("stand-in", 0.6, 4096)
"""How the stand-in teacher samples."""


def iter_chunks(num_users: int) -> Iterator[tuple[range, list[list[str]]]]:
    """Numbers of users and what each of them bought, thirteen different items, chunk by chunk."""
    rng = np.random.default_rng(0)
    names = np.array([f"i{n}" for n in range(NUM_ITEMS)])
    for begin in range(0, num_users, CHUNK):
        numbers = range(begin, min(begin + CHUNK, num_users))
        first = rng.integers(NUM_ITEMS, size=(len(numbers), 1))
        stride = rng.integers(1, NUM_ITEMS // NUM_EVENTS, size=(len(numbers), 1))
        yield numbers, names[(first + stride * np.arange(NUM_EVENTS)) % NUM_ITEMS].tolist()


def item_table() -> pa.Table:
    """The catalogue."""
    titles = [f"{WORDS[n % len(WORDS)]} Product {n}" for n in range(NUM_ITEMS)]
    items = [
        {schema.ITEM_ID: f"i{n}", schema.TITLE: title, schema.CATEGORIES: [WORDS[n % 7]]}
        for n, title in enumerate(titles)
    ]
    return pa.Table.from_pylist(items, schema.ITEMS)


def make_interactions(folder: Path, num_users: int) -> None:
    """Eight purchases a user, in files of some users each, and the catalogue."""
    (folder / "interactions").mkdir(parents=True)
    pq.write_table(item_table(), folder / "items.parquet")
    for part, (numbers, bought) in enumerate(iter_chunks(num_users)):
        columns = {
            schema.USER_ID: [f"u{n}" for n in numbers for _ in range(8)],
            schema.ITEM_ID: [item for items in bought for item in items[:8]],
            schema.TIMESTAMP: [1_600_000_000 + 60 * k for _ in numbers for k in range(8)],
        }
        pq.write_table(pa.table(columns), folder / "interactions" / f"part-{part:05d}.parquet")


def make_dataset(folder: Path, num_users: int) -> None:
    """A prepared dataset of random purchases, written a chunk of users at a time."""
    folder.mkdir(parents=True)
    pq.write_table(item_table(), folder / "items.parquet")
    with (
        pq.ParquetWriter(folder / "test.parquet", schema.EXAMPLES) as test,
        pq.ParquetWriter(folder / "train.parquet", schema.EXAMPLES) as train,
        pq.ParquetWriter(folder / "validation.parquet", schema.EXAMPLES) as validation,
        pq.ParquetWriter(folder / "users.parquet", schema.USERS) as users,
    ):
        for numbers, bought in iter_chunks(num_users):
            for writer, row in (
                (test, _test_row),
                (train, _train_row),
                (validation, _validation_row),
                (users, _user_row),
            ):
                rows = [row(n, items) for n, items in zip(numbers, bought, strict=True)]
                writer.write_table(pa.Table.from_pylist(rows, writer.schema))
    manifest = {
        "schema_version": schema.SCHEMA_VERSION,
        "domain": "Marketplace",
        "fingerprint": str(num_users),
        "source": "scale",
        "seed": 0,
        "config": {"num_negatives": 5},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _test_row(n: int, items: list[str]) -> dict[str, object]:
    """Seven purchases, and six candidates whose target is at each position equally often."""
    candidates = items[7:13]
    candidates[0], candidates[n % 6] = candidates[n % 6], candidates[0]
    row = {"example_id": f"t{n}", schema.USER_ID: f"u{n}", "history": items[:7]}
    return row | {"target": items[7], "candidates": candidates}


def _validation_row(n: int, items: list[str]) -> dict[str, object]:
    row = {"example_id": f"v{n}", schema.USER_ID: f"u{n}", "history": items[:6]}
    return row | {"target": items[6], "candidates": [items[6], *items[8:13]]}


def _train_row(n: int, items: list[str]) -> dict[str, object]:
    row = {"example_id": f"r{n}", schema.USER_ID: f"u{n}", "history": items[:5]}
    return row | {"target": items[5], "candidates": [items[5], *items[8:13]]}


def _user_row(n: int, items: list[str]) -> dict[str, object]:
    return {schema.USER_ID: f"u{n}", "items": items[:8]}


def write_steps(target: int, title: str) -> tuple[str, ...]:
    """The five steps of a chain that recommends a candidate."""
    return (
        f"{' '.join(WORDS[:6])} things that last.",
        "Most candidates are for the home; some are not.",
        f"({target + 1}) is the closest.",
        f"({target + 1}) fits best, the others less.",
        f"({target + 1}) {title}. It lasts.",
    )


def make_paths(folder: Path, num_users: int) -> None:
    """A dataset, and a path of the training example of every user who is paid for."""
    make_dataset(folder / "dataset", num_users)
    dataset = Dataset.load(str(folder / "dataset"))
    _write_paths(dataset, "train", folder / "reasoning")


def _write_paths(dataset: Dataset, split: Split, folder: Path) -> None:
    """A path for each of the first examples of a split."""
    with storage.table_writer(str(folder / schema.PATHS_FILE), schema.PATHS) as writer:
        for part in dataset.partitions(split, NUM_PAID, CHUNK).read():
            rows = [_path_row(dataset, example) for example in part]
            writer.write_table(pa.Table.from_pylist(rows, schema.PATHS))


def _path_row(dataset: Dataset, example: Example) -> dict[str, object]:
    title = dataset.items[example.target].title
    steps = write_steps(example.candidates.index(example.target), title)
    return {
        "example_id": example.example_id,
        "steps": steps,
        "reasoning": render_reasoning("full", steps),
        schema.ITEM_ID: example.target,
        "model": TEACHER.model,
    }


def make_journal(folder: Path, num_users: int) -> None:
    """A dataset, and an answer to the question about every user who is paid for."""
    make_dataset(folder / "dataset", num_users)
    (folder / "out" / FOLDER).mkdir(parents=True)
    settings = [f"synthesis.num_examples={NUM_PAID}"]
    requests = build_requests(Dataset.load(str(folder / "dataset")), load_config(None, settings))
    names = [f"{n:03d}.jsonl" for n in range(NUM_JOURNAL_FILES)]
    with ExitStack() as stack:
        files = [stack.enter_context((folder / "out" / FOLDER / name).open("wb")) for name in names]
        for n, request in enumerate(requests.values()):
            files[n % len(files)].write(_entry(request, n).to_line())


def _entry(request: TeacherRequest, n: int) -> JournalEntry:
    title = request.candidates[request.target]
    reasoning = render_reasoning("full", write_steps(request.target, title))
    return JournalEntry(
        example_id=request.example_id,
        attempt=0,
        prompt_hash=request.prompt_hash,
        sampling=TEACHER,
        text=render_output(reasoning, render_answer(title, request.target, "number_title")),
        reasoning_content=None,
        finish_reason="stop",
        usage={"prompt_tokens": 300, "completion_tokens": 100},
        served_model=TEACHER.model,
        latency_s=1.0,
        tries=1,
        answered_at_s=1.7e9 + n,
        teacher=TEACHER.model,
        run="scale",
    )


def make_evaluation(folder: Path, num_users: int) -> None:
    """A dataset, an evaluation of both sides and their fusion, and references of paid users."""
    make_dataset(folder / "dataset", num_users)
    dataset = Dataset.load(str(folder / "dataset"))
    variants = ("user", "item", "fused")
    system = SystemId(id="backbone", kind="base", label="stand-in", paper_row=None)
    _write_paths(dataset, "test", folder / "reasoning")

    def answer() -> Iterator[EvaluatedPart]:
        for examples in dataset.partitions("test").read():
            predictions = [_predict(dataset, example) for example in examples]
            yield EvaluatedPart(examples, dict.fromkeys(variants, predictions))

    evaluation = Evaluation(system, answer())
    write_evaluation(evaluation, dataset, str(folder / "evaluation"), load_config(None, []))


def _predict(dataset: Dataset, example: Example) -> Prediction:
    """A whole chain that chooses the second candidate."""
    title = dataset.items[example.candidates[1]].title
    reasoning = render_reasoning("user", project_steps("user", write_steps(1, title)))
    answer = render_answer(title, 1, "number_title")
    text = render_output(reasoning, answer)
    return Prediction(example.example_id, SideOutput("user", text, reasoning, 1, 1.5, 80), 0)


def make_file(folder: Path, num_users: int) -> None:
    """A dataset, and a file of what another system chose for every user."""
    make_dataset(folder / "dataset", num_users)
    schema_of = pa.schema([("example_id", pa.string()), (schema.ITEM_ID, pa.string())])
    dataset = Dataset.load(str(folder / "dataset"))
    with storage.table_writer(str(folder / "choices.parquet"), schema_of) as writer:
        for part in dataset.partitions("test").read():
            columns = [[e.example_id for e in part], [e.candidates[0] for e in part]]
            writer.write_table(pa.table(columns, schema=schema_of))


def make_hits(folder: Path, num_users: int) -> None:
    """The hits of two arms and three seeds."""
    rng = np.random.default_rng(0)
    with storage.table_writer(str(folder / "hits.parquet"), HITS) as writer:
        for arm, seed in product(("chain", "none"), range(3)):
            for begin in range(0, num_users, CHUNK):
                numbers = range(begin, min(begin + CHUNK, num_users))
                columns = [[name] * len(numbers) for name in ("Shop", arm, "frozen")]
                columns += [[seed] * len(numbers), ["direct"] * len(numbers)]
                columns += [[f"t{n}" for n in numbers], [f"u{n}" for n in numbers]]
                index = rng.integers(6, size=len(numbers))
                columns += [index.tolist(), (index == 0).tolist()]
                writer.write_table(pa.table(columns, schema=HITS))
