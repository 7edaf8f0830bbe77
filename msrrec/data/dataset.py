"""Reading a prepared dataset: catalogue, frozen examples and manifest."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.errors import DataError
from msrrec.schema import Example, Item, Split
from msrrec.storage import MANIFEST

ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"


@dataclass(frozen=True)
class Dataset:
    """A dataset that ``msrrec prepare`` wrote.

    Attributes:
        path: Folder of the dataset.
        manifest: Counts, settings, seed, source and the sha256 of every file.
        items: Catalogue by item id.
    """

    path: str
    manifest: dict[str, Any]
    items: dict[str, Item]

    @classmethod
    def load(cls, path: str) -> "Dataset":
        """Read manifest and catalogue.

        Raises:
            DataError: If the folder is not a dataset, or has another schema version.
        """
        if not storage.exists(storage.join(path, MANIFEST)):
            raise DataError(
                f"{path}: holds no {MANIFEST}; expected a folder made by `msrrec prepare`"
            )
        manifest = storage.read_object(storage.join(path, MANIFEST))
        if manifest.get("schema_version") != schema.SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {manifest.get('schema_version')!r}; expected "
                f"{schema.SCHEMA_VERSION}; run `msrrec prepare` again"
            )
        table = storage.read_table(storage.join(path, ITEMS_FILE), schema.ITEMS)
        items = {
            row[schema.ITEM_ID]: Item(
                row[schema.ITEM_ID],
                row[schema.TITLE],
                tuple(row[schema.CATEGORIES] or ()),
                row[schema.BRAND],
            )
            for row in table.to_pylist()
        }
        return cls(path, manifest, items)

    @property
    def domain(self) -> str:
        """What prompts call the shop."""
        return str(self.manifest["domain"])

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the current contents of all files of the dataset."""
        recorded = self.manifest.get("sha256")
        if not recorded:
            return str(self.manifest["fingerprint"])
        files = {name: storage.read_bytes(storage.join(self.path, name)) for name in recorded}
        return str(hash_files(files)["fingerprint"])

    def examples(self, split: Split, limit: int = 0) -> list[Example]:
        """The examples of a split in their frozen order, the first ``limit`` of them (0: all).

        Raises:
            DataError: If an example names an item that the catalogue lacks.
        """
        path = storage.join(self.path, f"{split}.parquet")
        table = storage.read_table(path, schema.EXAMPLES)
        examples = read_examples(table.slice(0, limit) if limit else table)
        for example in examples:
            for item_id in (*example.history, *example.candidates):
                if item_id not in self.items:
                    raise DataError(
                        f"{path}: example {example.example_id} names item {item_id!r}, "
                        "which items.parquet lacks"
                    )
        return examples

    def events(self) -> dict[str, list[str]]:
        """All items of each user, oldest first, by user id.

        Raises:
            DataError: If the dataset was prepared without them.
        """
        path = storage.join(self.path, USERS_FILE)
        if not storage.exists(path):
            raise DataError(
                f"{path}: missing, so purchases before the history that examples show are "
                "unknown; run `msrrec prepare` again"
            )
        table = storage.read_table(path, schema.USERS)
        return dict(zip(*table.to_pydict().values(), strict=True))

    def titles(self, item_ids: Iterable[str]) -> list[str]:
        """The titles of items, in order."""
        return [self.items[item_id].title for item_id in item_ids]


def read_examples(table: pa.Table) -> list[Example]:
    """The examples in a table of a split."""
    return [
        Example(
            row["example_id"],
            row[schema.USER_ID],
            tuple(row["history"]),
            row["target"],
            tuple(row["candidates"]),
        )
        for row in table.to_pylist()
    ]


def hash_files(files: Mapping[str, bytes]) -> dict[str, Any]:
    """``sha256`` of each file's content by name, and one ``fingerprint`` over all of them."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return {"sha256": hashes, "fingerprint": hashlib.sha256(lines.encode()).hexdigest()}
