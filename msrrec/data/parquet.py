"""Columns of Parquet files as text, where it is sure what a value means as one."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from msrrec import storage
from msrrec.data.columns import ColumnChoice
from msrrec.data.json_lines import plain_number
from msrrec.errors import DataError, first_line

_EXACT = {pl.Float32: 2**24, pl.Float64: 2**53}
"""Sizes above which a type holds not every whole number."""


def read_parquet(path: str, choice: ColumnChoice) -> tuple[list[str], pl.DataFrame]:
    """The names of all columns, and the chosen columns as text.

    Lists and structs are written as JSON, whole numbers without a decimal point, times as ISO 8601,
    with ``Z`` where the column has a zone.

    Raises:
        DataError: If the file is not Parquet, lacks a column, or holds one of which it isn't sure
            what its values are as text.
    """
    filesystem, inner = storage.resolve(path)
    try:
        file = pq.ParquetFile(inner, filesystem=filesystem)
        found = list(file.schema_arrow.names)
        chosen = list(choice.match(path, found).values())
        table = file.read(chosen)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file ({first_line(error)})") from error
    return found, pl.DataFrame([_read_column(path, name, table[name]) for name in chosen])


def _read_column(path: str, name: str, column: pa.ChunkedArray) -> pl.Series:
    where = f"{path}: column {name!r} of type {column.type}"
    try:
        column.validate(full=True)
        if pa.types.is_nested(column.type):
            texts = [_as_json(value) for value in column.to_pylist()]
            return pl.Series(name, texts, pl.String)
        if isinstance(column.type, pa.UuidType):
            texts = [None if value is None else str(value) for value in column.to_pylist()]
            return pl.Series(name, texts, pl.String)
        if pa.types.is_fixed_size_binary(column.type):
            column = column.cast(pa.binary())
        return _as_text(where, pl.Series(name, pl.from_arrow(column)))
    except (pa.ArrowException, pl.exceptions.PolarsError, ValueError, TypeError) as error:
        raise DataError(
            f"{where} can't be read as text ({first_line(error)}); expected text, numbers, dates, "
            "times or lists of them, so convert it when the file is written"
        ) from error


def _as_text(where: str, column: pl.Series) -> pl.Series:
    kind = column.dtype
    if kind.is_float():
        return _numbers_as_text(where, column)
    if kind == pl.Datetime:
        if kind.time_zone is None:
            return column.dt.to_string("%Y-%m-%dT%H:%M:%S%.9f")
        utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return utc.dt.to_string("%Y-%m-%dT%H:%M:%S%.9fZ")
    if kind in (pl.Duration, pl.Time):
        raise ValueError("no moments, but lengths of time or times of a day")
    text = column.cast(pl.String)
    if kind.is_decimal():
        return text.str.replace(r"\.0*$|(\.\d*[1-9])0+$", "${1}")
    return text


def _numbers_as_text(where: str, column: pl.Series) -> pl.Series:
    column = column.fill_nan(None)
    limit = _EXACT.get(type(column.dtype), 2**11)
    if (column.abs() > limit).any():
        raise DataError(
            f"{where} holds {column.filter(column.abs() > limit)[0]:.0f}, but can't tell whole "
            f"numbers above {limit} apart; expected whole numbers or text"
        )
    if (column.is_finite() & (column % 1 == 0)).all():
        return column.cast(pl.Int64).cast(pl.String)
    return column.cast(pl.String)


def _as_json(value: Any) -> str | None:
    return None if value is None else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value within a list as JSON has it: dates and decimals as text, bytes as UTF-8."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return None if value != value else plain_number(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date):
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else value
