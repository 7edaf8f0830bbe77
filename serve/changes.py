"""Changes of a catalogue while it is served, which outlive a restart and reach every replica.

Each change is a small file beside the index, in a folder named by the version that it changes.
Every replica reads the folder about once a second, in the order of the files' names. An index that
was built anew has another version, and so none of the changes. But a rollout's next version takes
over what the live one was told since the next one's index was written, which that can't hold.
"""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from msrrec import storage
from msrrec.errors import DataError
from msrrec.retrieval.index import Index
from msrrec.schema import Item


class ChangeLog:
    """The changes of one index, in order.

    Attributes:
        folder: Where the changes are.
    """

    def __init__(self, index_path: str, version: str, live: str | None = None) -> None:
        """Begin at the oldest.

        Args:
            index_path: The folder of the index.
            version: Of the index, as it was written.
            live: The folder of another index's changes, of which those that are later than this
                index are copied, so that they outlive the rollout.
        """
        self.folder = storage.join(storage.beside(index_path, ".changes"), version)
        self._live = live if live != self.folder else None
        self._written_ns = _written_at(index_path) if self._live else 0
        self._seen: set[str] = set()
        self._latest_ns = 0

    def put(self, item: Item) -> None:
        """Keep that an item is offered."""
        self._append({"put": asdict(item)})

    def delete(self, item_id: str) -> None:
        """Keep that an item is no longer offered."""
        self._append({"delete": item_id})

    def _append(self, change: dict[str, Any]) -> None:
        # After all that is known, also where the clock of another node is fast.
        time_ns = max(time.time_ns(), self._latest_ns + 1)
        name = f"{time_ns:020d}-{uuid.uuid4().hex[:8]}.json"
        storage.write_bytes(storage.join(self.folder, name), json.dumps(change).encode())

    def read_new(self) -> list[dict[str, Any]]:
        """The changes that were not read before, oldest first."""
        names = self._names(self.folder)
        if self._live is not None:
            names = sorted([*names, *self._take_over(self._live, set(names))])
        new = [name for name in names if name not in self._seen]
        found = [storage.read_object(storage.join(self.folder, name)) for name in new]
        self._seen.update(new)
        self._latest_ns = max([self._latest_ns, *map(_time_of, new)])
        return found

    def _names(self, folder: str) -> list[str]:
        return [name for name in storage.list_files(folder) if name.endswith(".json")]

    def _take_over(self, folder: str, known: set[str]) -> list[str]:
        """The names of the changes that were copied from a folder."""
        later = [name for name in self._names(folder) if _time_of(name) > self._written_ns]
        new = [name for name in later if name not in known]
        for name in new:
            content = storage.read_bytes(storage.join(folder, name))
            storage.write_bytes(storage.join(self.folder, name), content)
        return new


def _written_at(index_path: str) -> int:
    """When an index was written, in nanoseconds since 1970, by its last file."""
    (found,) = [one for one in storage.walk(index_path) if one.name == storage.INDEX]
    return found.modified_ns


def _time_of(name: str) -> int:
    """When a change was told, in nanoseconds since 1970."""
    return int(name.partition("-")[0])


def apply(index: Index, changes: Sequence[dict[str, Any]]) -> Index:
    """The index after some changes; one that says nothing new is left out."""
    for change in changes:
        if "put" in change:
            fields = change["put"]
            item = Item(**{**fields, "categories": tuple(fields.get("categories") or ())})
            index = index.add([item])
            continue
        try:
            index = index.remove([change["delete"]])
        except DataError:  # another replica removed it as well
            continue
    return index
