"""Finished outputs of a run that may be killed: one Parquet file per batch, always complete.

A file's name holds the places of its examples among all, so a partition is read without its
neighbours. On an object store, where every file costs a request, a run that begins again joins
those of earlier ones.
"""

import logging
import uuid
from collections.abc import Iterator, Mapping

import pyarrow as pa

from msrrec import storage
from msrrec.journal import Journal, group_small

logger = logging.getLogger(__name__)

_IDENTITY = "identity.json"


class OutputJournal:
    """A folder with the batches of outputs of one run and its reruns.

    Attributes:
        has_earlier: Whether an earlier run left outputs.
    """

    def __init__(self, folder: str, identity: Mapping[str, object], schema: pa.Schema) -> None:
        """Open a folder; it is created with the first batch.

        Args:
            folder: Folder of the journal; it need not exist.
            identity: What decides the outputs; JSON values only. Outputs of a run with another
                identity are deleted.
            schema: The columns of the outputs.
        """
        self._folder, self._identity, self._schema = folder, identity, schema
        self._batches = Journal(folder, ".parquet")
        path = storage.join(folder, _IDENTITY)
        self._is_begun = storage.exists(path)
        if self._is_begun and storage.read_json(path) != identity:
            logger.info("%s: holds outputs of a run with other settings; starting again", folder)
            self.delete()
        if storage.is_object_store(folder):
            self._compact()
        self._earlier = frozenset(self._batches.list_files())
        self.has_earlier = bool(self._earlier)

    def append(self, table: pa.Table, places: range) -> None:
        """Save a batch.

        Args:
            table: The outputs.
            places: 0-based places among all examples, within which those of the batch are.
        """
        if not self._is_begun:
            storage.write_json(storage.join(self._folder, _IDENTITY), self._identity)
            self._is_begun = True
        self._batches.add_file(storage.table_bytes(table), _name(places))

    def _compact(self) -> None:
        """Join small files of neighbouring places.

        A run that is killed in between leaves outputs twice, which readers expect.
        """
        paths = {storage.base_name(path): path for path in self._batches.list_files()}
        joined = 0
        for group in group_small(self._folder, [name for name in paths if _places(name)]):
            tables = [storage.read_table(paths[name], self._schema) for name in group]
            spans = [span for span in map(_places, group) if span]
            places = range(spans[0].start, max(span.stop for span in spans))
            self._batches.add_file(storage.table_bytes(pa.concat_tables(tables)), _name(places))
            for name in group:
                storage.delete_file(paths[name])
            joined += len(group)
        if joined:
            logger.info("%s: joined %d small files", storage.shown(self._folder), joined)

    def read(self, places: range) -> Iterator[tuple[pa.Table, bool]]:
        """The batches that may have examples of these places, and whether an earlier run made them.

        They are in no particular order, and may have other examples too.
        """
        for path in self._batches.list_files():
            if _overlaps(path, places):
                yield storage.read_table(path, self._schema), path in self._earlier

    def read_earlier(self, places: range, schema: pa.Schema) -> Iterator[pa.Table]:
        """Some columns of what an earlier run left for these places."""
        for path in sorted(self._earlier):
            if _overlaps(path, places):
                yield storage.read_table(path, schema)

    def delete(self) -> None:
        """Delete the folder."""
        storage.delete_folder(self._folder)
        self._is_begun = False


def _name(places: range) -> str:
    """A new name for a file with outputs of these places, without its ending."""
    return f"{places.start:010d}-{places.stop:010d}-{uuid.uuid4().hex}"


def _places(name: str) -> range | None:
    """The places in a file's name; None for a file of an earlier release, which may have any."""
    begin, _, end = name.partition("-")
    return range(int(begin), int(end.partition("-")[0])) if end else None


def _overlaps(path: str, places: range) -> bool:
    """Whether the places in a file's name have some in common with a range."""
    found = _places(storage.base_name(path))
    return found is None or (found.start < places.stop and found.stop > places.start)
