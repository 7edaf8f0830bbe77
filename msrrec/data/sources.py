"""Where purchases and items come from: a table of one's own, Amazon, MovieLens, the embedded world.

Every source gives events in the order of its files, files by name: that order breaks ties between
equal timestamps. Items come as records, which are parsed in full only once they are known to be in
the catalogue.
"""

import html
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import polars as pl
import pyarrow as pa

from msrrec import schema
from msrrec.data import amazon, blocks, movielens, readers
from msrrec.errors import ConfigError, DataError
from msrrec.titles import clean_title, normalize_title

SourceName = Literal["amazon", "movielens", "table", "demo"]

EVENT_COLUMNS = (schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP)
ITEM_COLUMNS = tuple(schema.ITEMS.names)

TITLED = "titled"
RECORD = "record"
RECORDS = pa.schema(
    [
        pa.field(schema.ITEM_ID, pa.string()),
        pa.field(TITLED, pa.bool_()),
        pa.field(RECORD, pa.large_binary()),
    ]
)
"""Items before they are parsed: id, whether there is a visible title, and the source's own line."""

TITLE_KEY = "title_key"
"""Column beside those of ``schema.ITEMS``: equal for titles that count as equal."""

_RECORDS_PER_TASK = 1024
_MAX_DESCRIPTION_CHARS = 2_000


@dataclass(frozen=True)
class Inputs:
    """The files of a source.

    Attributes:
        interactions: Files of events, in the order that breaks ties.
        items: Files of items.
    """

    source: SourceName
    interactions: tuple[str, ...]
    items: tuple[str, ...]


def find_inputs(source: str, interactions: str | None, items: str | None) -> Inputs:
    """The files that the command line's paths stand for.

    Raises:
        ConfigError: If the source is unknown or a path is missing.
        DataError: If a path leads to no file.
    """
    if source not in get_args(SourceName):
        known = ", ".join(get_args(SourceName))
        raise ConfigError(f"--source {source!r} is unknown; expected one of {known}")
    if source == "demo":
        return Inputs("demo", (), ())
    if interactions is None:
        raise ConfigError(f"--source {source} needs --interactions PATH")
    if source == "movielens":
        ratings = movielens.find_ratings(interactions)
        return Inputs("movielens", (ratings,), (movielens.movies_beside(ratings),))
    if items is None:
        raise ConfigError(f"--source {source} needs --items PATH, where titles are")
    found = tuple(readers.find_files(interactions)), tuple(readers.find_files(items))
    return Inputs("amazon" if source == "amazon" else "table", *found)


def load_events(inputs: Inputs, demo_table: pa.Table | None = None) -> pa.Table:
    """User and item (dictionary-encoded) and time (int64) of all events, in the order of the files.

    Raises:
        DataError: If a file lacks a column, or a row an id or a whole number as its time.
    """
    if demo_table is not None:
        return _encode(_check_events("demo", pl.DataFrame(demo_table)))
    read = partial(read_events, inputs.source)
    return blocks.map_files(read, inputs.interactions, "read interactions")


def load_records(
    inputs: Inputs, wanted: pa.Array | None, demo_table: pa.Table | None = None
) -> pa.Table:
    """Records of the wanted items (None: of all), repeated ids included; see ``RECORDS``.

    Raises:
        DataError: If a file is not one of items.
    """
    if demo_table is not None:
        return _records(pl.DataFrame(demo_table))
    read = partial(read_records, inputs.source, wanted)
    return blocks.map_files(read, inputs.items, "read items")


def parse_records(inputs: Inputs, records: pa.Table) -> pa.Table:
    """Records as ``schema.ITEMS`` with ``TITLE_KEY``, in order."""
    parse = partial(parse_part, inputs.source)
    return blocks.map_rows(parse, records, _RECORDS_PER_TASK, "parse items")


def read_events(source: SourceName, path: str) -> pa.Table:
    """``load_events`` for one file."""
    found = _READ_EVENTS[source](path)
    return _encode(found if isinstance(found, pa.Table) else _check_events(path, found))


def _check_events(path: str, frame: pl.DataFrame) -> pa.Table:
    """The three columns of events with whole numbers as times, or what is wrong and where."""
    frame = _select(path, frame, EVENT_COLUMNS, EVENT_COLUMNS).cast(pl.String)
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


def _select(
    path: str, frame: pl.DataFrame, names: Sequence[str], required: Sequence[str]
) -> pl.DataFrame:
    for name in required:
        if name not in frame.columns:
            raise DataError(f"{path}: lacks column {name!r}; expected {', '.join(names)}")
    if frame.is_empty():
        raise DataError(f"{path}: holds no rows; expected at least one")
    return frame.select(name for name in names if name in frame.columns)


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


def _read_table_events(path: str) -> pl.DataFrame:
    return readers.read_text_columns(path, EVENT_COLUMNS)


_READ_EVENTS: dict[str, Callable[[str], pa.Table | pl.DataFrame]] = {
    "table": _read_table_events,
    "amazon": amazon.read_reviews,
    "movielens": movielens.read_ratings,
}


def read_records(source: SourceName, wanted: pa.Array | None, path: str) -> pa.Table:
    """``load_records`` for one file."""
    if source == "amazon":
        ids = None if wanted is None else {item_id.encode() for item_id in wanted.to_pylist()}
        rows = list(amazon.iter_metadata(path, ids))
        return pa.table([list(c) for c in zip(*rows, strict=True)] or [[], [], []], schema=RECORDS)
    if source == "movielens":
        frame = movielens.read_movies(path)
    else:
        frame = readers.read_text_columns(path, ITEM_COLUMNS)
    frame = _select(path, frame, ITEM_COLUMNS, (schema.ITEM_ID, schema.TITLE))
    if wanted is not None:
        frame = frame.filter(pl.col(schema.ITEM_ID).is_in(wanted.to_pylist()))
    return _records(frame)


def _records(frame: pl.DataFrame) -> pa.Table:
    titled = [bool(clean_title(title or "")) for title in frame[schema.TITLE]]
    rows = [json.dumps(row).encode() for row in frame.drop(schema.ITEM_ID).iter_rows(named=True)]
    return pa.table([frame[schema.ITEM_ID].to_list(), titled, rows], schema=RECORDS)


def parse_part(source: SourceName, records: pa.Table) -> pa.Table:
    """``parse_records`` for some of them."""
    columns = (records[schema.ITEM_ID].to_pylist(), records[RECORD].to_pylist())
    items = [_item(source, item_id, record) for item_id, record in zip(*columns, strict=True)]
    return pa.Table.from_pylist(items, schema.ITEMS.append(pa.field(TITLE_KEY, pa.string())))


def _item(source: SourceName, item_id: str, record: bytes) -> dict[str, Any]:
    """One item, cleaned: its title as prompts show it, its path of categories, one line of text."""
    is_amazon = source == "amazon"
    fields = amazon.parse_line(record, f"item {item_id!r}") if is_amazon else json.loads(record)
    title = clean_title(fields[schema.TITLE])
    description = fields.get(schema.DESCRIPTION)
    if isinstance(description, list):
        description = " ".join(map(str, description))
    return {
        schema.ITEM_ID: item_id,
        schema.TITLE: title,
        schema.CATEGORIES: _categories(fields.get(schema.CATEGORIES)),
        schema.BRAND: _clean_name(str(fields.get(schema.BRAND) or "")) or None,
        schema.DESCRIPTION: _one_line(str(description or "")) or None,
        TITLE_KEY: normalize_title(title),
    }


@lru_cache(100_000)
def _clean_name(name: str) -> str:
    """A brand or category on one line; the same few occur again and again."""
    return clean_title(name)


def _one_line(text: str) -> str:
    return " ".join(html.unescape(text[:_MAX_DESCRIPTION_CHARS]).split())


def _categories(value: Any) -> list[str] | None:
    """One path of categories, widest first: of a list, of the first of several, or of ``A|B``."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value.split("|")
        value = parsed if isinstance(parsed, list) else [value]
    if value and isinstance(value[0], list):
        value = value[0]
    return [name for v in value or () if v and (name := _clean_name(str(v)))] or None
