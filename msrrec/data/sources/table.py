"""The user's own purchases: CSV, JSON lines or Parquet with named columns."""

import polars as pl

from msrrec.data import readers
from msrrec.data.columns import EVENT_COLUMNS, ITEM_COLUMNS, ColumnChoice
from msrrec.data.sources.base import Source


class Table(Source):
    """Files whose columns have the names of ``columns`` or those given by settings."""

    takes_columns = True

    def read_events(self, path: str) -> pl.DataFrame:
        """User id, item id, time and, if set, order id of each row."""
        names = self.config.columns.model_dump(exclude_none=True)
        return self._read(path, ColumnChoice(EVENT_COLUMNS, names, "data.columns"))

    def read_items(self, path: str) -> pl.DataFrame:
        """The columns of items that the file has."""
        names = self.config.item_columns.model_dump(exclude_none=True)
        return self._read(path, ColumnChoice(ITEM_COLUMNS, names, "data.item_columns"))

    def _read(self, path: str, choice: ColumnChoice) -> pl.DataFrame:
        return readers.read_columns(path, choice, self.config.separator, self.config.encoding)
