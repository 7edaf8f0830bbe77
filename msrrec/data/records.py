"""Item records: the items of a source before and after they are parsed.

A record keeps its source's own line. It is parsed in full only once its item is known to be in the
catalogue, as a category may hold fifty times as many items.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from msrrec import schema
from msrrec.data import arrow
from msrrec.data.text import (
    category_path,
    is_missing,
    plain_description,
    replace_surrogates,
    visible_title,
)
from msrrec.titles import clean_title, normalize_title

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
"""A column beside those of ``schema.ITEMS``; its values are equal for equal titles."""
PARSED = schema.ITEMS.append(pa.field(TITLE_KEY, pa.string()))


def records_of_frame(frame: pl.DataFrame) -> pa.Table:
    """Rows of item columns as ``RECORDS``; each line is a JSON object."""
    titled = [not is_missing(t) and bool(clean_title(t)) for t in frame[schema.TITLE]]
    lines = [json.dumps(row).encode() for row in frame.drop(schema.ITEM_ID).iter_rows(named=True)]
    return records_of_rows(list(zip(frame[schema.ITEM_ID], titled, lines, strict=True)))


def records_of_rows(rows: Sequence[tuple[str, bool, bytes]]) -> pa.Table:
    """``RECORDS`` from item id, whether it has a title, and line of each item."""
    return arrow.table(rows, RECORDS)


def clean_item(item_id: str, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row of ``PARSED``: title as in prompts, category path, and texts on one line."""
    title = visible_title(fields[schema.TITLE])
    brand = fields.get(schema.BRAND)
    categories = category_path(fields.get(schema.CATEGORIES))
    return (
        item_id,
        title,
        [name for c in categories if (name := _clean_name(c))] or None,
        None if is_missing(brand) else _clean_name(str(brand)) or None,
        plain_description(fields.get(schema.DESCRIPTION)),
        normalize_title(title),
    )


@lru_cache(100_000)
def _clean_name(name: str) -> str:
    """A brand or category on one line; cached, as the same few recur."""
    return clean_title(replace_surrogates(name))
