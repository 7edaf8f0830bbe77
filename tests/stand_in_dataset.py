"""A dataset for teachers to be asked about; several test files share it."""

import random
from collections import defaultdict
from pathlib import Path

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.data.world import make_world


def write_dataset(folder: Path, num_users: int, seed: int = 0) -> Dataset:
    """One training example a user of the embedded world."""
    interactions, items = make_world(num_users, seed)
    ids = items[schema.ITEM_ID].to_pylist()
    bought: dict[str, list[str]] = defaultdict(list)
    for row in interactions.to_pylist():
        bought[row[schema.USER_ID]].append(row[schema.ITEM_ID])
    rng = random.Random(seed)
    rows = []
    for n, (user, history) in enumerate(bought.items()):
        *before, target = history[:-2]
        candidates = rng.sample([i for i in ids if i not in history], 5)
        candidates.insert(n % 6, target)
        rows.append(
            {
                "example_id": f"{user}-train",
                "user_id": user,
                "history": before,
                "target": target,
                "candidates": candidates,
            }
        )
    storage.write_table(str(folder / "items.parquet"), items)
    storage.write_table(
        str(folder / "train.parquet"), pa.Table.from_pylist(rows, schema=schema.EXAMPLES)
    )
    manifest = {"schema_version": 1, "domain": "Shop", "fingerprint": f"{num_users}-{seed}"}
    storage.write_json(str(folder / "manifest.json"), manifest)
    return Dataset.load(str(folder))
