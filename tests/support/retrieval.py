"""Small datasets and indexes over them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from msrrec import schema, storage
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.retrieval.build import build_index
from msrrec.retrieval.index import Index, Retrieved
from msrrec.schema import Item
from tests.support.dataset import write_events

SHOP = {
    "lamp": "Red oak lamp",
    "table": "Red oak table",
    "bulb": "Light bulb E27",
    "tent": "Two-person tent",
    "stove": "Camping stove",
    "mug": "Tin mug",
}
"""Titles by item id."""
BOUGHT = {
    "u1": ("lamp", "bulb", "table", "mug", "tent"),
    "u2": ("lamp", "bulb", "table", "tent", "mug"),
    "u3": ("tent", "stove", "mug", "lamp", "table"),
    "u4": ("tent", "stove", "lamp", "table"),
}
"""Purchases by user; the last two of each are held out."""


def write_shop_dataset(
    folder: Path, titles: Mapping[str, str] = SHOP, bought: Mapping[str, Sequence[str]] = BOUGHT
) -> Dataset:
    """A dataset of items by title and the events of each user."""
    rows = [{schema.ITEM_ID: item_id, schema.TITLE: title} for item_id, title in titles.items()]
    storage.write_table(f"{folder}/items.parquet", pa.Table.from_pylist(rows, schema.ITEMS))
    write_events(folder, bought)
    manifest = {"schema_version": 1, "domain": "Shop", "fingerprint": f"shop-{len(bought)}"}
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset.load(str(folder))


def build_shop_index(dataset: Dataset, *settings: str, extra: Sequence[Item] = ()) -> Index:
    """An index of a dataset; every weight is 1 unless the settings say otherwise."""
    given = ("tuning_users=0", *settings)
    config = load_config(None, [f"retrieval.{setting}" for setting in given])
    return build_index(dataset, config.retrieval, extra)


def only(*names: str) -> tuple[str, ...]:
    """Settings that leave all retrievers out but some."""
    known = ("transitions", "copurchase", "words", "popularity")
    return tuple(f"weights.{name}={int(name in names)}" for name in known)


def ids(found: Sequence[Retrieved]) -> list[str]:
    """The items that were found, in order."""
    return [item.item_id for item in found]
