"""Reading all files of a source: interactions, item records, and parsed items.

Interactions keep the order of the files, sorted by name. That order decides between equal times.
"""

from functools import partial

import pyarrow as pa

from msrrec import schema
from msrrec.data import arrow, blocks, events
from msrrec.data.events import Loaded
from msrrec.data.records import PARSED, RECORD, clean_item
from msrrec.data.sources.base import Inputs, Source

RECORDS_PER_TASK = 1024
"""Rows of a source that one Ray task parses; the dataset is the same for any number."""


def load_events(source: Source, inputs: Inputs) -> Loaded:
    """All interactions of a source, in the order of the files.

    Raises:
        DataError: If a file lacks a column, or a row an id or a time that can be read.
    """
    read = partial(read_file, source)
    tables = blocks.map_files(read, inputs.interactions, "read interactions", inputs.needs_ray)
    return events.combine(inputs.interactions, tables)


def load_records(source: Source, inputs: Inputs, wanted: pa.Array | None) -> pa.Table:
    """Item records of the wanted items (None: all), repeated ids included; see ``RECORDS``.

    Raises:
        DataError: If a file does not contain items.
    """
    read = partial(source.read_records, wanted=wanted)
    return pa.concat_tables(
        blocks.map_files(read, inputs.items, "read items", inputs.needs_ray)
    ).combine_chunks()


def parse_records(source: Source, inputs: Inputs, records: pa.Table) -> pa.Table:
    """Item records parsed into ``records.PARSED``, in order."""
    parse = partial(parse_part, source)
    rows = RECORDS_PER_TASK
    return pa.concat_tables(
        blocks.map_rows(parse, records, rows, "parse items", inputs.needs_ray)
    ).combine_chunks()


def read_file(source: Source, path: str) -> pa.Table:
    """The events of one file, in the form that ``events.combine`` takes."""
    found = source.read_events(path)
    return events.encode_file(path, found, source.config, guesses=source.takes_columns)


def parse_part(source: Source, records: pa.Table) -> pa.Table:
    """``parse_records`` for a slice of the records."""
    columns = (records[schema.ITEM_ID].to_pylist(), records[RECORD].to_pylist())
    items = [
        clean_item(item_id, source.parse_record(item_id, record))
        for item_id, record in zip(*columns, strict=True)
    ]
    return arrow.table(items, PARSED)
