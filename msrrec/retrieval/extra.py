"""Further items of a catalogue, from files like those that ``msrrec prepare`` reads."""

import logging
from collections.abc import Iterator

from msrrec import schema
from msrrec.config import DataConfig
from msrrec.data.folders import find_files
from msrrec.data.loading import load_records, parse_records
from msrrec.data.records import TITLED
from msrrec.data.sources import Inputs, make_source
from msrrec.errors import DataError
from msrrec.schema import Item

logger = logging.getLogger(__name__)


def find_extra_items(path: str) -> Inputs:
    """The files of further items: a file, folder or pattern.

    Raises:
        DataError: If there are none.
    """
    return Inputs((), tuple(find_files(path)))


def read_extra_items(path: str, settings: DataConfig) -> list[Item]:
    """Further items, cleaned as those of a dataset; Ray must be running if the files are large.

    Items without a title are left out, with a warning that counts them.

    Args:
        path: A CSV, JSON lines or Parquet file, a folder or a pattern.
        settings: The section ``data`` of the settings, which names the columns.

    Raises:
        DataError: If a file can't be read or lacks a column, or no item has a title.
    """
    source, inputs = make_source("table", settings), find_extra_items(path)
    records = load_records(source, inputs, None)
    titled = records.filter(records[TITLED])
    if untitled := len(records) - len(titled):
        logger.warning("%s: leaves out %s items without a title", path, f"{untitled:,}")
    if not len(titled):
        raise DataError(
            f"{path}: no item has a title; expected titles in the column title, or "
            "in the one that data.item_columns.title names"
        )
    return list(_iter_items(parse_records(source, inputs, titled).to_pylist()))


def _iter_items(rows: list[dict[str, object]]) -> Iterator[Item]:
    for row in rows:
        categories, brand = row[schema.CATEGORIES], row[schema.BRAND]
        yield Item(
            str(row[schema.ITEM_ID]),
            str(row[schema.TITLE]),
            tuple(map(str, categories)) if isinstance(categories, list) else (),
            None if brand is None else str(brand),
        )
