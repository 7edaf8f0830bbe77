"""Twelve users, and a model whose user side is always right, for evaluations without Ray."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.inference.batch import Answered
from msrrec.inference.codec import request_seed
from msrrec.inference.predictions import Prediction
from msrrec.inference.recommender import accept
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example
from tests.support.dataset import write_events
from tests.support.engine import FakeEngine, listed_candidates, recommender

NUM_USERS = 12
NASTY = "<script>alert('x')</script> & <b>"


def write_evaluated_users(folder: Path) -> Dataset:
    """Twelve users; the target is ``right``, at slot n modulo 3, among two wrong items."""
    titles = {"h": f"Old {NASTY}", "right": f"Right {NASTY}", "wrong": "Wrong one", "bad": "Bad"}
    items = [{"item_id": k, "title": v} for k, v in titles.items()]
    rows = []
    for n in range(NUM_USERS):
        candidates = ["wrong", "bad"]
        candidates.insert(n % 3, "right")
        rows.append(
            {
                "example_id": f"e{n:02d}",
                "user_id": f"u{n}",
                "history": ["h"],
                "target": "right",
                "candidates": candidates,
            }
        )
    path = str(folder)
    storage.write_table(f"{path}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    examples = pa.Table.from_pylist(rows, schema=schema.EXAMPLES)
    for split in schema.SPLITS:
        storage.write_table(f"{path}/{split}.parquet", examples)
    write_events(path, {f"u{n}": ["h", "right", "right", "right"] for n in range(NUM_USERS)})
    manifest = {"schema_version": 1, "domain": f"Home {NASTY}", "fingerprint": "f00"}
    storage.write_json(f"{path}/manifest.json", manifest)
    return Dataset.load(path)


def write_evaluated_model(folder: Path) -> str:
    """A model's folder that evaluations and reports read, without weights."""
    (folder / "merged").mkdir(parents=True)
    (folder / "merged" / "config.json").write_text("{}")
    settings = {"kind": "msrrec", "answer_format": "number_title", "domain": "Home"}
    (folder / "config.json").write_text(json.dumps(settings))
    lines = [{"step": s, "loss": 3.0 / s, "loss_rea": 2.0 / s, "loss_rec": 1.0 / s} for s in (1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return str(folder)


def answer(prompt: str, seed: int) -> str:
    """The user side is always right; the item side names the first candidate, or no candidate."""
    titles = listed_candidates(prompt)
    right = next(n for n, title in enumerate(titles) if title.startswith("Right"))
    index = right if "side of the user" in prompt else 0
    if "side of the items" in prompt and titles[0].startswith("Right"):
        return "Undecided"
    return f"Step 1. {NASTY}\n[reasoning_end]\n({index + 1}) {titles[index]}"


def predict_here(
    examples: Partitions,
    dataset: Dataset,
    source: ModelSource,
    sides: Sequence[Side],
    config: InferenceConfig,
    journal: Any,
    build: Any,
    route_threshold: float | None = None,
) -> Iterator[Answered]:
    """Batch inference without Ray."""
    for part in examples.read():
        yield part, _predict(part, dataset, sides, config, route_threshold)


def _predict(
    examples: Sequence[Example],
    dataset: Dataset,
    sides: Sequence[Side],
    config: InferenceConfig,
    route_threshold: float | None,
) -> list[Prediction]:
    queries = [
        Query(
            e.example_id,
            "Home",
            tuple(dataset.titles(e.history)),
            tuple(dataset.titles(e.candidates)),
        )
        for e in examples
    ]
    scored = InferenceConfig(candidate_logprobs=config.candidate_logprobs)
    asked = recommender(FakeEngine(answer), scored)
    if route_threshold is None:
        results = asked.generate(queries, sides)
    else:
        results = accept(asked.generate_routed(queries, route_threshold))
    return [
        Prediction(query.key, result[side], request_seed(config.seed, query.key, side))
        for query, result in zip(queries, results, strict=True)
        for side in sides
        if side in result
    ]
