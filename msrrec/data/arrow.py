"""Conversions between numpy and Arrow that avoid importing pandas (half a second)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

_DTYPES = {
    pa.string(): pl.String,
    pa.bool_(): pl.Boolean,
    pa.large_binary(): pl.Binary,
    pa.list_(pa.string()): pl.List(pl.String),
}
"""Types of columns as the column reader knows them."""


def integers(values: NDArray[Any]) -> pa.Array:
    """Whole numbers as int64, without a copy if they already are int64."""
    values = np.ascontiguousarray(values, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def pick(ids: Any, places: NDArray[Any]) -> Any:
    """The entries of an Arrow array or table at some positions."""
    return ids.take(integers(places))


def lists(starts: NDArray[Any], values: pa.Array) -> pa.ListArray:
    """Lists of values; list n is ``values[starts[n]:starts[n + 1]]``."""
    return pa.ListArray.from_arrays(integers(starts).cast(pa.int32()), values)


def numbers(column: Any) -> NDArray[Any]:
    """An Arrow column of whole numbers or flags, without nulls, as a numpy array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if array.type == pa.bool_():
        return numbers(array.cast(pa.uint8())).astype(bool)
    return np.from_dlpack(array)


def texts(values: Sequence[str] | pl.Series) -> pa.Array:
    """Texts as an Arrow array."""
    return pl.Series(values, dtype=pl.String).to_arrow().cast(pa.string())


def table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """A table from rows of values, which are in the order of the schema's fields."""
    dtypes = {field.name: _DTYPES[field.type] for field in schema}
    return pl.DataFrame(rows, schema=dtypes, orient="row").to_arrow().cast(schema)
