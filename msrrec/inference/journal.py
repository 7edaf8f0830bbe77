"""Finished outputs of a run that may be killed: one Parquet file per batch, always complete.

A file's name holds the places of its examples among all, so a partition is read without its
neighbours.
"""

import logging
import uuid
from collections.abc import Iterator, Mapping

import pyarrow as pa

from msrrec import storage
from msrrec.journal import Journal

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
        name = f"{places.start:010d}-{places.stop:010d}-{uuid.uuid4().hex}"
        self._batches.add_file(storage.table_bytes(table), name)

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


def _overlaps(path: str, places: range) -> bool:
    """Whether the places in a file's name have some in common with a range.

    A file without them, of an earlier release, may have any.
    """
    begin, _, end = path.partition("?")[0].rsplit("/", 1)[-1].partition("-")
    if not end:
        return True
    return int(begin) < places.stop and int(end.partition("-")[0]) > places.start
