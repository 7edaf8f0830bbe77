"""Reading a prepared dataset: catalogue, frozen examples and manifest."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.partitions import PARTITION_SIZE, Partitions
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
        return _fingerprint({n: storage.sha256(storage.join(self.path, n)) for n in recorded})

    def examples(self, split: Split, limit: int = 0) -> list[Example]:
        """The examples of a split in their frozen order, the first ``limit`` of them (0: all).

        Raises:
            DataError: If an example names an item that the catalogue lacks.
        """
        return list(self.iter_examples(split, limit))

    def iter_examples(self, split: Split, limit: int = 0) -> Iterator[Example]:
        """The same examples one by one, of which few are in memory at once."""
        for part in self.partitions(split, limit).read():
            yield from part

    def partitions(self, split: Split, limit: int = 0, size: int = PARTITION_SIZE) -> Partitions:
        """The same examples in partitions, which are read from the file one by one."""
        path = storage.join(self.path, f"{split}.parquet")
        num_rows = storage.count_rows(path)
        num_examples = min(limit or num_rows, num_rows)

        def read() -> Iterator[list[Example]]:
            num_left = num_examples
            for table in storage.iter_tables(path, schema.EXAMPLES, size):
                examples = read_examples(table.slice(0, num_left))
                num_left -= len(examples)
                if not examples:
                    return
                self._check_items(examples, path)
                yield examples

        return Partitions(num_examples, read)

    def _check_items(self, examples: Iterable[Example], path: str) -> None:
        for example in examples:
            for item_id in (*example.history, *example.candidates):
                if item_id not in self.items:
                    raise DataError(
                        f"{path}: example {example.example_id} names item {item_id!r}, "
                        "which items.parquet lacks"
                    )

    def events(self) -> dict[str, list[str]]:
        """All items of each user, oldest first, by user id.

        Raises:
            DataError: If the dataset was prepared without them.
        """
        return dict(self.iter_events())

    def iter_events(self) -> Iterator[tuple[str, list[str]]]:
        """Each user and all items of the user, oldest first, read a few at a time.

        Raises:
            DataError: If the dataset was prepared without them.
        """
        for names, events in self.iter_event_parts():
            yield from zip(names, events, strict=True)

    def iter_event_parts(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        """The same in partitions: ids of users, and all items of each of them.

        Raises:
            DataError: If the dataset was prepared without them.
        """
        path = storage.join(self.path, USERS_FILE)
        if not storage.exists(path):
            raise DataError(
                f"{path}: missing, so purchases before the history that examples show are "
                "unknown; run `msrrec prepare` again"
            )
        for table in storage.iter_tables(path, schema.USERS, PARTITION_SIZE):
            yield table[schema.USER_ID].to_pylist(), table["items"].to_pylist()

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


def hash_files(paths: Mapping[str, str]) -> dict[str, Any]:
    """``sha256`` of each file's content by name, and one ``fingerprint`` over all of them.

    Args:
        paths: Where each file is, by its name in the dataset.
    """
    hashes = {name: storage.sha256(path) for name, path in paths.items()}
    return {"sha256": hashes, "fingerprint": _fingerprint(hashes)}


def _fingerprint(hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()
