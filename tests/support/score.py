"""An evaluation of four users and a teacher's reasoning to score it against."""

from pathlib import Path

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.schema import Example
from tests.support.results import evaluation_result, system_id, variant_result

REFERENCE = "The user likes red lamps."


def write_scored(folder: Path) -> tuple[Dataset, str]:
    """A dataset, and the folder of an evaluation on it.

    Its four users all bought ``a``; the model was right with the reference's words, wrong with
    other words, right again, and wrote nothing that could be read.
    """
    dataset, evaluation = write_four_users(f"{folder}/dataset"), f"{folder}/evaluation"
    rows = [
        prediction(0, 0, REFERENCE),
        prediction(1, 1, "Nothing in common"),
        prediction(2, 0, REFERENCE),
        prediction(3, None, ""),
    ]
    candidates = {f"e{n}": ("a", "b") for n in range(4)}
    write_predictions(f"{evaluation}/predictions/user.parquet", rows, candidates)
    evaluation_result(system_id("m", "trained"), {"user": variant_result()}).save(evaluation)
    return dataset, evaluation


def write_four_users(path: str) -> Dataset:
    """Four test users; all bought ``a``."""
    items = [{"item_id": i, "title": i} for i in "hab"]
    storage.write_table(f"{path}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    examples = [vars(Example(f"e{n}", f"u{n}", ("h",), "a", ("a", "b"))) for n in range(4)]
    table = pa.Table.from_pylist(examples, schema=schema.EXAMPLES)
    storage.write_table(f"{path}/test.parquet", table)
    manifest = {"schema_version": 1, "domain": "Home", "fingerprint": "f00"}
    storage.write_json(f"{path}/manifest.json", manifest)
    return Dataset.load(path)


def prediction(n: int, index: int | None, reasoning: str, text: str = "") -> Prediction:
    """What the model wrote for user ``n``."""
    return Prediction(f"e{n}", SideOutput("user", text, reasoning, index, None, 1), 0)


def write_references(folder: Path, paths: dict[str, str]) -> str:
    """Example to the item that its path recommends."""
    rows = [
        {"example_id": e, "steps": [], "reasoning": REFERENCE, "item_id": i, "model": "teacher"}
        for e, i in paths.items()
    ]
    table = pa.Table.from_pylist(rows, schema=schema.PATHS)
    storage.write_table(str(folder / "paths.parquet"), table)
    return str(folder)
