"""Finished outputs of a run that may be killed: one Parquet file per batch, always complete."""

import logging
from collections.abc import Iterator, Mapping

import pyarrow as pa

from msrrec import storage
from msrrec.journal import Journal

logger = logging.getLogger(__name__)

_IDENTITY = "identity.json"


class OutputJournal:
    """A folder with the batches of outputs of one run and its reruns."""

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

    def append(self, table: pa.Table) -> None:
        """Save a batch."""
        if not self._is_begun:
            storage.write_json(storage.join(self._folder, _IDENTITY), self._identity)
            self._is_begun = True
        self._batches.add_file(storage.table_bytes(table))

    def read(self) -> Iterator[pa.Table]:
        """All batches, in no particular order."""
        for path in self._batches.list_files():
            yield storage.read_table(path, self._schema)

    def delete(self) -> None:
        """Delete the folder."""
        storage.delete_folder(self._folder)
        self._is_begun = False
