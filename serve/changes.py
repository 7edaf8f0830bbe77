"""Changes of a catalogue while it is served, which outlive a restart and reach every replica.

Each change is a small file beside the index, in a folder named by the version that it changes.
Every replica reads the folder about once a second. Of several changes of an item the one whose
file's name is the last counts, in whatever order they are read. Where there are many files, whoever
adds one packs them into one, which is written before they are deleted.

An index that was built anew has another version, and so none of the changes. But a rollout's next
version takes over what the live one was told since the next one's index was written, which that
can't hold.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from msrrec import storage
from msrrec.errors import DataError
from msrrec.retrieval.index import Index
from msrrec.schema import Item

logger = logging.getLogger(f"msrrec.{__name__}")

_MAX_FILES = 500
"""Files from which on they are packed."""
_AT_ONCE = 16
"""Files that are read or deleted at once."""


_PACKED = "packed"
_BY_NAME = attrgetter("name")

Reader = Callable[[str], dict[str, Any]]
"""Reads a file of changes."""


@dataclass(frozen=True)
class Change:
    """What was told of an item.

    Attributes:
        name: Of its file, which begins with the time; later changes have later names.
        item: The item as it is offered since; None if it is offered no more.
    """

    name: str
    item_id: str
    item: Item | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"delete": self.item_id} if self.item is None else {"put": asdict(self.item)}


def _from_json(name: str, found: dict[str, Any]) -> Change:
    if "put" not in found:
        return Change(name, found["delete"], None)
    fields = found["put"]
    item = Item(**{**fields, "categories": tuple(fields.get("categories") or ())})
    return Change(name, item.item_id, item)


class ChangeLog:
    """The changes of one index.

    Attributes:
        folder: Where the changes are.
        latest: The name of the latest change that was read; empty before the first.
    """

    def __init__(
        self,
        index_path: str,
        version: str,
        live: str | None = None,
        *,
        max_files: int = _MAX_FILES,
    ) -> None:
        """Begin at the oldest.

        Args:
            index_path: The folder of the index.
            version: Of the index, as it was written.
            live: The folder of another index's changes, of which those that are later than this
                index are copied, so that they outlive the rollout.
            max_files: Files from which on they are packed into one.
        """
        self.folder = storage.join(storage.beside(index_path, ".changes"), version)
        self.latest = ""
        self._live = live if live != self.folder else None
        self._written_ns = _written_at(index_path) if self._live else 0
        self._max_files = max_files
        self._read: dict[str, set[str]] = {}
        self._latest_of: dict[str, str] = {}

    def put(self, item: Item) -> None:
        """Keep that an item is offered."""
        self._append(item.item_id, item)

    def delete(self, item_id: str) -> None:
        """Keep that an item is no longer offered."""
        self._append(item_id, None)

    def _append(self, item_id: str, item: Item | None) -> None:
        # After all that is known, also where the clock of another node is fast.
        time_ns = max(time.time_ns(), _time_of(self.latest) + 1)
        self._write(Change(_name_at(time_ns), item_id, item))
        if len(self._read.get(self.folder, ())) >= self._max_files:
            try:
                self._pack()
            except (DataError, OSError) as error:  # the change itself is kept
                logger.warning("%s: can't be packed now (%s)", storage.shown(self.folder), error)
                # Where nothing may be deleted, every try adds a copy of all of them.
                self._max_files = 2 * len(self._read[self.folder])

    def _write(self, change: Change) -> None:
        content = json.dumps(change.to_json()).encode()
        storage.write_bytes(storage.join(self.folder, change.name), content)

    def read_new(self) -> list[Change]:
        """The changes that say something new, oldest first.

        Raises:
            DataError, OSError: If the storage refuses.
        """
        try:
            return self._read_new(storage.read_object)
        except DataError:
            # Another replica may have packed what was listed. The pack was there before that was
            # deleted, and so is listed now.
            return self._read_new(_read_if_there)

    def _read_new(self, read: Reader) -> list[Change]:
        names = {self.folder: _names(self.folder)}
        new = self._only_new(self._read_files(self.folder, names[self.folder], read))
        if self._live is not None:
            names[self._live] = _names(self._live)
            new = self._take_over(new, self._read_files(self._live, names[self._live], read))
        self._read = {folder: set(listed) for folder, listed in names.items()}
        self._latest_of.update((one.item_id, one.name) for one in new)
        self.latest = max([self.latest, *(one.name for one in new)])
        return new

    def _read_files(self, folder: str, names: Iterable[str], read: Reader) -> list[Change]:
        known = self._read.get(folder, set())
        return _read_changes(folder, [name for name in names if name not in known], read)

    def _only_new(self, changes: Iterable[Change]) -> list[Change]:
        """Those that are later than what is known of their items, oldest first."""
        known = self._latest_of
        new = (one for one in changes if one.name > known.get(one.item_id, ""))
        return sorted(new, key=_BY_NAME)

    def _take_over(self, own: list[Change], others: Iterable[Change]) -> list[Change]:
        """This index's changes, and those of the live one that it needs, which are copied."""
        known = {one.item_id: one.name for one in own}
        later = [
            one
            for one in self._only_new(others)
            if _time_of(one.name) > self._written_ns and one.name > known.get(one.item_id, "")
        ]
        for one in later:
            self._write(one)
        return sorted([*own, *later], key=_BY_NAME)

    def _pack(self) -> None:
        """Put all files into one, without what later changes have made superfluous."""
        names = _names(self.folder)
        if len(names) < self._max_files:  # another replica has just done so
            return
        changes = _without_superfluous(_read_changes(self.folder, names, storage.read_object))
        packed = {one.name: one.to_json() for one in changes}
        path = storage.join(self.folder, _name_at(_time_of(changes[-1].name)))
        storage.write_bytes(path, json.dumps({_PACKED: packed}).encode())
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            paths = [storage.join(self.folder, name) for name in names]
            list(pool.map(storage.delete_file, paths))
        logger.info("%s: packed %d files", storage.shown(self.folder), len(names))


def _names(folder: str) -> list[str]:
    return [name for name in storage.list_files(folder) if name.endswith(".json")]


def _read_changes(folder: str, names: Sequence[str], read: Reader) -> list[Change]:
    """The changes in some files, each of which holds one, or is a pack of them."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        contents = pool.map(read, [storage.join(folder, name) for name in names])
        return [
            _from_json(own, one)
            for name, found in zip(names, contents, strict=True)
            for own, one in found.get(_PACKED, {name: found}).items()
        ]


def _read_if_there(path: str) -> dict[str, Any]:
    """A file, or an empty pack in place of one that is gone."""
    try:
        return storage.read_object(path)
    except DataError:
        if storage.exists(path):
            raise
        return {_PACKED: {}}


def _without_superfluous(changes: Iterable[Change]) -> list[Change]:
    """The changes that are needed, oldest first: of each item the last text, and what came after.

    A deleted item keeps its text, as it may stand in histories.
    """
    needed: dict[str, list[Change]] = {}
    for one in sorted(set(changes), key=_BY_NAME):
        before = needed.get(one.item_id, [])
        needed[one.item_id] = [one] if one.item else [*(b for b in before if b.item), one]
    return sorted((one for of_item in needed.values() for one in of_item), key=_BY_NAME)


def _written_at(index_path: str) -> int:
    """When an index was written, in nanoseconds since 1970, by its last file."""
    (found,) = [one for one in storage.walk(index_path) if one.name == storage.INDEX]
    return found.modified_ns


def _name_at(time_ns: int) -> str:
    return f"{time_ns:020d}-{uuid.uuid4().hex[:8]}.json"


def _time_of(name: str) -> int:
    """When a change was told, in nanoseconds since 1970; 0 without a name."""
    return int(name.partition("-")[0] or 0)


def apply(index: Index, changes: Sequence[Change]) -> Index:
    """The index after some changes; one that says nothing new is left out."""
    index = index.add([one.item for one in changes if one.item])
    last = {one.item_id: one.item for one in changes}
    deleted = [item_id for item_id, item in last.items() if item is None]
    catalogue = index.catalogue
    codes = ((item_id, catalogue.codes.get(item_id)) for item_id in deleted)
    return index.remove(i for i, code in codes if code is not None and catalogue.is_offered[code])
