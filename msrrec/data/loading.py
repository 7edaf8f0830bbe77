"""All files of a source read: interactions checked and encoded, records, items parsed.

Interactions come in the order of the files, files by name: that order breaks ties between equal
times.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import polars as pl
import pyarrow as pa

from msrrec import schema
from msrrec.data import blocks, readers
from msrrec.data.records import PARSED, RECORD, clean_item
from msrrec.data.sources.base import Inputs, Source
from msrrec.errors import DataError

EVENT_COLUMNS = (schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP)

_RECORDS_PER_TASK = 1024


def load_events(source: Source, inputs: Inputs) -> pa.Table:
    """User and item (dictionary-encoded) and time (int64) of all events, in the order of the files.

    Raises:
        DataError: If a file lacks a column, or a row an id or a whole number as its time.
    """
    return blocks.map_files(partial(read_file, source), inputs.interactions, "read interactions")


def load_records(source: Source, inputs: Inputs, wanted: pa.Array | None) -> pa.Table:
    """Records of the wanted items (None: of all), repeated ids included; see ``RECORDS``.

    Raises:
        DataError: If a file is not one of items.
    """
    read = partial(source.read_records, wanted=wanted)
    return blocks.map_files(read, inputs.items, "read items")


def parse_records(source: Source, records: pa.Table) -> pa.Table:
    """Records as ``schema.ITEMS`` with ``TITLE_KEY``, in order."""
    return blocks.map_rows(partial(parse_part, source), records, _RECORDS_PER_TASK, "parse items")


def read_file(source: Source, path: str) -> pa.Table:
    """``load_events`` for one file."""
    found = source.read_events(path)
    return _encode(found if isinstance(found, pa.Table) else _check_events(path, found))


def _check_events(path: str, frame: pl.DataFrame) -> pa.Table:
    """The three columns of events with whole numbers as times, or what is wrong and where."""
    frame = readers.select_columns(path, frame, EVENT_COLUMNS, EVENT_COLUMNS).cast(pl.String)
    for name in (schema.USER_ID, schema.ITEM_ID):
        missing = frame[name].fill_null("") == ""
        if missing.any():
            where = readers.locate_row(path, _first(missing))
            raise DataError(f"{where}: has no {name}; expected one")
    times = frame[schema.TIMESTAMP]
    parsed = times.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    if parsed.null_count():
        row = _first(parsed.is_null())
        raise DataError(
            f"{readers.locate_row(path, row)}: timestamp {times[row]!r} is not a whole number; "
            "expected seconds since 1970"
        )
    return frame.with_columns(parsed).to_arrow()


def _first(flags: pl.Series) -> int:
    return int(flags.arg_max() or 0)


def _encode(events: pa.Table) -> pa.Table:
    """Ids as int32 codes into a dictionary: few bytes to move, and the form to count.

    In one chunk, as each chunk of a column would carry the dictionary again.
    """
    ids = [events[name] for name in (schema.USER_ID, schema.ITEM_ID)]
    with ThreadPoolExecutor(len(ids)) as pool:
        encoded = list(pool.map(_encode_ids, ids))
    columns = [*encoded, events[schema.TIMESTAMP].combine_chunks()]
    return pa.table(dict(zip(EVENT_COLUMNS, columns, strict=True)))


def _encode_ids(ids: pa.ChunkedArray) -> pa.DictionaryArray:
    return ids.cast(pa.string()).dictionary_encode().combine_chunks()


def parse_part(source: Source, records: pa.Table) -> pa.Table:
    """``parse_records`` for some of them."""
    columns = (records[schema.ITEM_ID].to_pylist(), records[RECORD].to_pylist())
    items = [
        clean_item(item_id, source.parse_record(item_id, record))
        for item_id, record in zip(*columns, strict=True)
    ]
    return pa.Table.from_pylist(items, PARSED)
