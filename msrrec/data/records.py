"""Item records: the items of a source before and after they are parsed.

A record is kept as its source's own line and parsed in full only once its item is known to be in
the catalogue, as a category may hold fifty times as many items.
"""

import html
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from msrrec import schema
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
"""Column beside those of ``schema.ITEMS``: equal for titles that count as equal."""
PARSED = schema.ITEMS.append(pa.field(TITLE_KEY, pa.string()))

_MAX_DESCRIPTION_CHARS = 2_000


def records_of_frame(frame: pl.DataFrame) -> pa.Table:
    """Rows of item columns as ``RECORDS``, each line a JSON object."""
    titled = [bool(clean_title(title or "")) for title in frame[schema.TITLE]]
    rows = [json.dumps(row).encode() for row in frame.drop(schema.ITEM_ID).iter_rows(named=True)]
    return pa.table([frame[schema.ITEM_ID].to_list(), titled, rows], schema=RECORDS)


def records_of_rows(rows: Sequence[tuple[str, bool, bytes]]) -> pa.Table:
    """Item id, whether there is a title, and line of each item as ``RECORDS``."""
    return pa.table([list(c) for c in zip(*rows, strict=True)] or [[], [], []], schema=RECORDS)


def clean_item(item_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``PARSED``: title as prompts show it, path of categories, texts on one line."""
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
