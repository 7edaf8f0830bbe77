"""Batch inference over a few users with a fake engine."""

import tempfile
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.inference.batch import (
    BuildRecommender,
    QueryEncoder,
    RecommendStage,
    TitleTable,
    open_journal,
    predict,
)
from msrrec.inference.journal import OutputJournal
from msrrec.inference.predictions import Prediction, from_row
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example, Item
from tests.support.engine import SOURCE, build_fake

TITLES = ("Red Lamp", "Blue Shoe", "Oak Table", "Steel Pan", "Green Tea", "Wool Hat", "Glass Vase")


def make_dataset(num_users: int) -> tuple[Dataset, list[Example]]:
    """A catalogue of seven items and one blank, and users who bought two of them."""
    items = {f"i{n}": Item(f"i{n}", title) for n, title in enumerate(TITLES)}
    items["blank"] = Item("blank", "\u200b")
    manifest = {"domain": "Home", "fingerprint": "f"}
    examples = [
        Example(f"u{n}", f"u{n}", ("i0", f"i{1 + n % 3}"), "i4", ("i2", "i4", "i5", "i6"))
        for n in range(num_users)
    ]
    return Dataset("/data", manifest, items), examples


def predict_all(
    examples: Sequence[Example],
    dataset: Dataset,
    sides: tuple[Side, ...],
    config: InferenceConfig,
    build: BuildRecommender,
    journal: OutputJournal | None = None,
    size: int = 7,
) -> list[Prediction]:
    """All predictions of partitions of ``size`` examples."""
    with tempfile.TemporaryDirectory() as folder:
        journal = journal or open_journal(folder, {}, config)
        asked = Partitions.split(examples, size)
        parts = predict(asked, dataset, SOURCE, sides, config, journal, build)
        return [prediction for _, part in parts for prediction in part]


def predict_here(
    examples: Sequence[Example], dataset: Dataset, sides: tuple[Side, ...], config: InferenceConfig
) -> list[Prediction]:
    """The same predictions by the fake engine in this process, without Ray."""
    stage = RecommendStage(SOURCE, config, sides, TitleTable.collect(dataset), build_fake)
    rows = read_stage(stage, QueryEncoder(dataset).encode(examples))
    return [from_row(row) for row in rows]


def read_stage(stage: RecommendStage, asked: pa.Table) -> list[dict[str, Any]]:
    """The rows that a stage makes of a batch, in the order of its examples."""
    places = {example_id: n for n, example_id in enumerate(asked["example_id"].to_pylist())}
    rows = pa.concat_tables(stage.generate(asked)).to_pylist()
    return sorted(rows, key=lambda row: places.get(row["example_id"], -1))
