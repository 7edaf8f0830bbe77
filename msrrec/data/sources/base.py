"""The base class of sources: finding files, and reading interactions and items from them."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa

from msrrec import schema
from msrrec.config import DataConfig
from msrrec.data import domains, readers, records
from msrrec.data.folders import find_files
from msrrec.data.ids import clean_ids
from msrrec.errors import ConfigError

logger = logging.getLogger(__name__)

TABLE_SETTINGS = ("columns", "item_columns", "timestamp_format", "separator", "encoding")
"""Settings about the format of a table's files."""
SMALL_BYTES = 32 << 20
"""Inputs up to this size are read in this process, which is faster than starting Ray."""


@dataclass(frozen=True)
class Inputs:
    """The files of a source.

    Attributes:
        interactions: Files of interactions, in the order that breaks ties between equal times.
        items: Files of items.
    """

    interactions: tuple[str, ...]
    items: tuple[str, ...]

    @property
    def needs_ray(self) -> bool:
        """Whether the input is large enough to read with Ray tasks."""
        return sum(map(readers.file_size, (*self.interactions, *self.items))) > SMALL_BYTES


class Source(ABC):
    """A kind of input. It holds only settings, as it is sent to the tasks that read files.

    Attributes:
        drops_untitled: Whether interactions with untitled items are dropped if
            ``data.missing_items`` is unset.
        takes_columns: Whether it uses the settings about a table's format.
    """

    drops_untitled: ClassVar[bool] = False
    takes_columns: ClassVar[bool] = False

    def __init__(self, config: DataConfig) -> None:
        """Keep the settings.

        Raises:
            ConfigError: If one is set that this source would ignore.
        """
        self.config = config
        defaults = DataConfig()
        for setting in () if self.takes_columns else TABLE_SETTINGS:
            if getattr(config, setting) != getattr(defaults, setting):
                raise ConfigError(
                    f"data.{setting}: --source {self.name} knows its own files and ignores this; "
                    "expected it with --source table"
                )

    @property
    def name(self) -> str:
        """Name of the source in messages."""
        return type(self).__name__.lower()

    def find(self, interactions: str | None, items: str | None) -> Inputs:
        """The files at the paths of the command line.

        Raises:
            ConfigError: If a path is missing.
            DataError: If no file exists at a path.
        """
        if interactions is None:
            raise ConfigError(f"--source {self.name} needs --interactions PATH")
        if items is None:
            raise ConfigError(f"--source {self.name} needs --items PATH, where titles are")
        return Inputs(tuple(find_files(interactions)), tuple(find_files(items)))

    @abstractmethod
    def read_events(self, path: str) -> pa.Table | pl.DataFrame:
        """User id, item id and time of each interaction of a file, in its order.

        Returns:
            Columns of text named as in ``schema``, null for missing values. If the times are int64,
            the table is used without further parsing.

        Raises:
            DataError: If the file does not contain interactions.
        """

    def read_items(self, path: str) -> pl.DataFrame:
        """Id, title and further fields of each item of a file, all as text.

        Raises:
            DataError: If the file is not one of items.
        """
        raise NotImplementedError

    def read_records(self, path: str, wanted: pa.Array | None) -> pa.Table:
        """``records.RECORDS`` of a file's wanted items (None: all), repeated ids included.

        Raises:
            DataError: If the file is not one of items.
        """
        names, required = schema.ITEMS.names, (schema.ITEM_ID, schema.TITLE)
        frame = readers.select_columns(path, self.read_items(path), names, required)
        ids = clean_ids(path, frame[schema.ITEM_ID].cast(pl.String))
        if ids.null_count():
            logger.warning("%s: leaves out %s items without an id", path, f"{ids.null_count():,}")
        frame = frame.with_columns(ids).drop_nulls(schema.ITEM_ID)
        if wanted is not None:
            frame = frame.filter(pl.col(schema.ITEM_ID).is_in(wanted.to_pylist()))
        return records.records_of_frame(frame)

    def parse_record(self, item_id: str, record: bytes) -> Mapping[str, Any]:
        """The fields of ``schema.ITEMS`` in one record, as the source writes them."""
        del item_id
        fields: dict[str, Any] = json.loads(record)
        return fields

    def domain(self, interactions: str | None) -> str:
        """What prompts call the shop, derived from the path of the interactions."""
        return domains.name_after_file(interactions)
