"""Purchases of one's own: CSV, JSON lines or Parquet with named columns."""

import polars as pl

from msrrec import schema
from msrrec.data import readers
from msrrec.data.sources.base import Source

_EVENT_COLUMNS = (schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP)


class Table(Source):
    """Files whose columns are named as in ``schema``."""

    def read_events(self, path: str) -> pl.DataFrame:
        """User id, item id and time of each row."""
        return readers.read_text_columns(path, _EVENT_COLUMNS)

    def read_items(self, path: str) -> pl.DataFrame:
        """The columns of ``schema.ITEMS`` that the file has."""
        return readers.read_text_columns(path, schema.ITEMS.names)
