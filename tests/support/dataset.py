"""Datasets that several test files share."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.embedded.world import make_world


def write_events(folder: Path | str, events: Mapping[str, Sequence[str]]) -> None:
    """All events of each user, of which the last two are held out."""
    columns = [list(events), list(map(list, events.values()))]
    storage.write_table(f"{folder}/users.parquet", pa.table(columns, schema=schema.USERS))


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
    write_events(folder, bought)
    manifest = {"schema_version": 1, "domain": "Shop", "fingerprint": f"{num_users}-{seed}"}
    storage.write_json(str(folder / "manifest.json"), manifest)
    return Dataset.load(str(folder))


def write_cycle(folder: Path, num_items: int = 12, num_users: int = 48) -> Dataset:
    """Everybody buys item n + 1 after item n, and the first after the last, in three splits."""
    items = [{"item_id": f"i{n:02d}", "title": f"Thing {n}"} for n in range(num_items)]
    storage.write_table(f"{folder}/items.parquet", pa.Table.from_pylist(items, schema.ITEMS))
    for split, last in (("train", 5), ("validation", 6), ("test", 7)):
        rows = []
        for user in range(num_users):
            bought = [f"i{(user + k) % num_items:02d}" for k in range(last)]
            others = [f"i{(user + k) % num_items:02d}" for k in range(8, 11)]
            slot = user % 4
            rows.append(
                {
                    "example_id": f"{user}:{split}",
                    "user_id": f"u{user}",
                    "history": bought[:-1],
                    "target": bought[-1],
                    "candidates": [*others[:slot], bought[-1], *others[slot:]],
                }
            )
        table = pa.Table.from_pylist(rows, schema.EXAMPLES)
        storage.write_table(f"{folder}/{split}.parquet", table)
    events = {f"u{u}": [f"i{(u + k) % num_items:02d}" for k in range(7)] for u in range(num_users)}
    write_events(folder, events)
    manifest = {"schema_version": 1, "domain": "Things", "fingerprint": "cycle"}
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset.load(str(folder))
