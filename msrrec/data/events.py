"""Interactions from files as columns of codes; each row is kept or dropped for a named reason."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msrrec import schema
from msrrec.config import DataConfig
from msrrec.data import arrow, ids, readers, times
from msrrec.data.columns import ORDER_ID
from msrrec.data.time_checks import is_out_of_range
from msrrec.data.times import Times
from msrrec.errors import DataError

IntArray = NDArray[np.int64]

EVENT_COLUMNS = (schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP)
MISSING_REASONS = {
    schema.USER_ID: "missing_user",
    schema.ITEM_ID: "missing_item",
    schema.TIMESTAMP: "missing_time",
}
"""Why a row without such a field is dropped."""

_FACTS = b"facts"
"""Metadata key under which a file's table stores further facts about the file."""


@dataclass(frozen=True)
class Events:
    """Interactions as columns of codes, in the order of the input.

    Attributes:
        users: Shape (E,). Index of each event's user in ``user_ids``.
        items: Shape (E,). Index of each event's item in ``item_ids``.
        timestamps: Shape (E,). Ticks since 1970, in the resolution of the input.
    """

    users: IntArray
    items: IntArray
    timestamps: IntArray
    user_ids: pa.Array
    item_ids: pa.Array

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[Any]) -> "Events":
        """Some of the events, by index or by flag; ids keep their codes."""
        return Events(
            self.users[rows], self.items[rows], self.timestamps[rows], self.user_ids, self.item_ids
        )

    def fold_users(self) -> "Events":
        """The events with user ids merged that differ only in case or outer spaces."""
        folded = _fold(self.user_ids).dictionary_encode()
        codes = arrow.numbers(folded.indices)[self.users]
        return Events(codes, self.items, self.timestamps, folded.dictionary, self.item_ids)

    def count_folded(self) -> int:
        """Number of user ids that ``fold_users`` would merge into others."""
        return len(self.user_ids) - int(pc.count_distinct(_fold(self.user_ids)).as_py())


def _fold(ids: pa.Array) -> pa.Array:
    return pc.utf8_lower(pc.utf8_trim_whitespace(ids))


@dataclass(frozen=True)
class Loaded:
    """All interactions read from a source.

    Attributes:
        events: The events that were kept.
        num_rows: Rows that were read.
        dropped: Rows that were not kept, by reason; reasons that do not occur are left out.
        ways: Formats of the times: units of numbers, recognised by their size, or ISO 8601.
        ticks_per_s: Number of ticks per second.
    """

    events: Events
    num_rows: int
    dropped: Mapping[str, int]
    ways: tuple[str, ...]
    ticks_per_s: int

    def describe_times(self) -> dict[str, str]:
        """The format of the times, and the first and last time."""
        first, last = int(self.events.timestamps.min()), int(self.events.timestamps.max())
        return {
            "read_as": " and ".join(self.ways) or "seconds",
            "first": times.format_moment(first, self.ticks_per_s),
            "last": times.format_moment(last, self.ticks_per_s),
        }


def encode_file(
    path: str, found: pa.Table | pl.DataFrame, config: DataConfig, *, guesses: bool = True
) -> pa.Table:
    """One file's events: ids as dictionaries, int64 ticks, and facts for ``combine``.

    Args:
        path: Path for error messages.
        found: What ``Source.read_events`` returns.
        config: The section ``data`` of the settings.
        guesses: Whether the unit of times is a guess, so that numbers that look like dates are
            refused; False for releases whose unit is known.

    Raises:
        DataError: If a row lacks a field and such rows are not dropped, or a time can't be read.
    """
    if isinstance(found, pa.Table) and found.schema.field(schema.TIMESTAMP).type == pa.int64():
        ticks = arrow.numbers(found[schema.TIMESTAMP])
        read, texts = times.read_integers(ticks), pl.Series(ticks)
        read = read if guesses else replace(read, misread=None)
        return _encode(path, found, np.arange(len(texts)), texts, read, len(texts), {})
    frame = pl.DataFrame(found)
    optional = [ORDER_ID] if ORDER_ID in frame.columns else []
    names = (*EVENT_COLUMNS, *optional)
    frame = readers.select_columns(path, frame, names, EVENT_COLUMNS).cast(pl.String)
    frame = _clean_columns(path, frame)
    rows, dropped = _find_kept(path, frame, config.missing_fields == "drop")
    kept = frame[rows] if dropped else frame
    texts = kept[schema.TIMESTAMP]
    read = times.read_times(texts, config.timestamp_format)
    read = read if guesses else replace(read, misread=None)
    if read.bad.any():
        raise _bad_time(path, rows, texts, read, config.timestamp_format)
    return _encode(path, kept.to_arrow(), rows, texts, read, frame.height, dropped)


def _clean_columns(path: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Replace empty fields by null, clean ids, and fill user and time within each order."""
    frame = frame.select(
        ids.blank_missing(column)
        if column.name == schema.TIMESTAMP
        else ids.clean_ids(path, column)
        for column in frame.iter_columns()
    )
    if ORDER_ID not in frame.columns:
        return frame
    shared = (schema.USER_ID, schema.TIMESTAMP)
    of_order = [pl.col(name).drop_nulls().first().over(ORDER_ID) for name in shared]
    in_order = pl.col(ORDER_ID).is_not_null()
    return frame.with_columns(
        pl.coalesce(pl.col(name), pl.when(in_order).then(value)).alias(name)
        for name, value in zip(shared, of_order, strict=True)
    )


def _find_kept(path: str, frame: pl.DataFrame, drop: bool) -> tuple[IntArray, dict[str, int]]:
    """The rows that have user, item and time, and the number of rows that lack each."""
    kept, dropped = np.ones(frame.height, dtype=bool), {}
    for name in EVENT_COLUMNS:
        lacks = frame[name].is_null().to_numpy() & kept
        if lacks.any() and not drop:
            where = readers.locate_row(path, int(lacks.argmax()))
            raise DataError(
                f"{where}: has no {name}; expected one that is not empty nor a word for none, such "
                "as NA or NULL, or set data.missing_fields=drop"
            )
        if lacks.any():
            dropped[MISSING_REASONS[name]] = int(lacks.sum())
        kept &= ~lacks
    if not kept.any():
        raise DataError(f"{path}: no row has a user, an item and a time; see data.columns")
    return np.flatnonzero(kept), dropped


def _bad_time(
    path: str, rows: IntArray, texts: pl.Series, read: Times, pattern: str | None
) -> DataError:
    place = int(read.bad.argmax())
    where = readers.locate_row(path, int(rows[place]))
    if pattern is not None:
        return DataError(
            f"{where}: timestamp {texts[place]!r} is not written as data.timestamp_format says; "
            f"expected {pattern!r}"
        )
    if is_out_of_range(texts[place]):
        return DataError(
            f"{where}: timestamp {texts[place]!r} is before the year 1678 or beyond the year 2262; "
            "expected the moment of a purchase, or none and data.missing_fields=drop"
        )
    return DataError(
        f"{where}: timestamp {texts[place]!r} is not a whole number; expected seconds, "
        "milliseconds, microseconds or nanoseconds since 1970, or ISO 8601 such as "
        "2024-08-25 20:59:29 -0400; data.timestamp_format names any other way"
    )


def _encode(
    path: str,
    table: pa.Table,
    rows: IntArray,
    texts: pl.Series,
    read: Times,
    num_rows: int,
    dropped: Mapping[str, int],
) -> pa.Table:
    """Ids as int32 codes into a dictionary, which is compact and ready for counting.

    The result is one chunk, as each chunk would repeat the dictionary.
    """
    if read.misread is not None:
        row, advice = read.misread
        raise DataError(
            f"{readers.locate_row(path, int(rows[row]))}: timestamp {texts[row]} is no "
            f"plausible number of seconds or smaller units since 1970; {advice}"
        )
    firsts = {way: (int(rows[n]), str(texts[n])) for way, n in read.firsts.items()}
    _check_ways({way: (path, *first) for way, first in firsts.items()})
    columns = [table[name] for name in (schema.USER_ID, schema.ITEM_ID)]
    with ThreadPoolExecutor(len(columns)) as pool:
        encoded = list(pool.map(_encode_ids, columns))
    facts = {
        "num_rows": num_rows,
        "dropped": dict(dropped),
        "ticks_per_s": read.ticks_per_s,
        "firsts": firsts,
    }
    found = dict(zip(EVENT_COLUMNS, [*encoded, arrow.integers(read.ticks)], strict=True))
    return pa.table(found).replace_schema_metadata({_FACTS: json.dumps(facts).encode()})


def _encode_ids(ids: pa.ChunkedArray) -> pa.DictionaryArray:
    return ids.cast(pa.string()).dictionary_encode().combine_chunks()


def _check_ways(firsts: Mapping[str, tuple[str, int, str]]) -> None:
    """Refuse two units in one input, and zones in some rows alone, as both misplace times."""
    _check_one(firsts, tuple(times.UNITS), "is in {} by its size, but {}: {} in {}", "one unit")
    ways = (times.ISO_WITH_ZONE, times.ISO_WITHOUT_ZONE)
    _check_one(firsts, ways, "is {}, but {}: {} is {}", "a zone in all rows or in none")


def _check_one(
    firsts: Mapping[str, tuple[str, int, str]], ways: Sequence[str], text: str, expected: str
) -> None:
    found = [way for way in firsts if way in ways]
    if len(found) < 2:
        return
    (path, row, first), (other_path, other_row, other) = (firsts[way] for way in found[:2])
    where, other_where = readers.locate_row(path, row), readers.locate_row(other_path, other_row)
    said = text.format(found[0], other_where, other, found[1])
    raise DataError(f"{where}: timestamp {first} {said}; expected {expected} in all files")


def combine(paths: Sequence[str], tables: Sequence[pa.Table]) -> Loaded:
    """The files' events in sequence, with times in the finest resolution of all files.

    Raises:
        DataError: If files differ in the unit of their times.
    """
    facts = [json.loads(table.schema.metadata[_FACTS]) for table in tables]
    firsts: dict[str, tuple[str, int, str]] = {}
    dropped: Counter[str] = Counter()
    for path, fact in zip(paths, facts, strict=True):
        dropped.update(fact["dropped"])
        for way, (row, text) in fact["firsts"].items():
            firsts.setdefault(way, (path, row, text))
    _check_ways(firsts)
    ticks_per_s = max(fact["ticks_per_s"] for fact in facts)
    table = pa.concat_tables([t.replace_schema_metadata(None) for t in tables]).unify_dictionaries()
    users, items = (table[n].combine_chunks() for n in (schema.USER_ID, schema.ITEM_ID))
    scaled = [
        _scale(path, arrow.numbers(t[schema.TIMESTAMP]), ticks_per_s // fact["ticks_per_s"])
        for path, t, fact in zip(paths, tables, facts, strict=True)
    ]
    events = Events(
        arrow.numbers(users.indices),
        arrow.numbers(items.indices),
        np.concatenate(scaled),
        users.dictionary,
        items.dictionary,
    )
    num_rows = sum(fact["num_rows"] for fact in facts)
    assert num_rows == len(events) + sum(dropped.values()), (num_rows, len(events), dropped)
    return Loaded(events, num_rows, dict(dropped), tuple(firsts), ticks_per_s)


def _scale(path: str, ticks: IntArray, factor: int) -> IntArray:
    limit = np.iinfo(np.int64).max // factor
    if factor > 1 and (np.abs(ticks) > limit).any():
        raise DataError(f"{path}: holds times beyond the year 2262; expected moments of purchases")
    return ticks * factor
