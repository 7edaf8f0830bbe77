"""Lines of JSON objects as columns of text: one text per value, whichever parser reads it.

A fast parser reads a piece of lines at once. It loses the backslashes of texts inside lists and
halves of surrogate pairs, and knows no NaN; where a piece may hold any of those, Python's parser
reads it. Both write numbers without an exponent and without ``.0``, so that an id such as ``1.0``
or ``1e5`` has the same text in every piece. Of a key that a line repeats, both take the first
value.
"""

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from msrrec.data.text import replace_surrogates
from msrrec.errors import DataError

_NESTED = r"^[\[{]"


def parse_piece(path: str, piece: bytes, line: int, names: Sequence[str]) -> pl.DataFrame:
    """The values of some keys in whole lines, as text; null where a line lacks the key.

    Args:
        path: Path for error messages.
        piece: Lines in UTF-8.
        line: Number of the first line.
        names: The keys.

    Raises:
        DataError: If a line is not a JSON object; names the line.
    """
    schema = dict.fromkeys(names, pl.String)
    try:
        frame = pl.read_ndjson(piece, schema=schema)
        if frame.height == _count_lines(piece) and not _is_doubtful(frame, piece):
            return frame
    except pl.exceptions.PolarsError:
        pass
    rows = []
    for number, text in enumerate(piece.split(b"\n"), line):
        if text.strip():
            record = _parse_object(f"{path}:{number}", text)
            rows.append([as_text(record.get(name)) for name in names])
    return pl.DataFrame(rows, schema=schema, orient="row")


def _count_lines(piece: bytes) -> int:
    return piece.count(b"\n") + (not piece.endswith(b"\n"))


def _is_doubtful(frame: pl.DataFrame, piece: bytes) -> bool:
    """Whether the fast parser may have lost a part of a list or of a text."""
    lost = r"\x00" if b"\\u" in piece else None
    for column in frame.iter_columns():
        if column.str.contains(_NESTED).any() or (lost and column.str.contains(lost).any()):
            return True
    return False


def _parse_object(where: str, text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=first_of_each)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{where}: not JSON ({problem}); expected one object a line") from problem
    if not isinstance(record, dict):
        raise DataError(f"{where}: not a JSON object; expected one a line")
    return record


def first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict, with the first value of a repeated key."""
    return dict(reversed(pairs)) if len({key for key, _ in pairs}) < len(pairs) else dict(pairs)


def as_text(value: Any) -> str | None:
    """A value of JSON as text: a text itself, a number in plain digits, or a list as JSON."""
    if value is None or value != value:  # Python writes a missing number as NaN
        return None
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, float) and math.isfinite(value):
        return plain_number(value)
    return replace_surrogates(json.dumps(value, ensure_ascii=False))


def plain_number(value: float) -> str:
    """A finite number in plain digits, the shortest that mean it: 100000 for 1e5, 1 for 1.0."""
    return f"{Decimal(repr(value)):f}".removesuffix(".0")
