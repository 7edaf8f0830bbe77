"""Amazon's review releases of 2014, 2018 and 2023: their keys and metadata lines.

The metadata of 2014 are Python literals, which take 0.1 ms each to evaluate. Only items of the
catalogue are evaluated; for others one scan finds the item id and whether there is a title.

Reviews of 2014 are read by their byte layout, several times faster than with a JSON parser. A line
begins with ``{"reviewerID": "…", "asin": "…"`` and ends with ``"unixReviewTime": 1…, "reviewTime":
"…"}``. Quotes inside JSON strings are always escaped, so these two parts can't be inside a text,
and the review between them need not be read. If any line looks different, a JSON parser reads the
whole file.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from msrrec import schema
from msrrec.data import domains, readers, records
from msrrec.data.sources.base import Source
from msrrec.errors import DataError
from msrrec.titles import clean_title

Bytes = NDArray[np.uint8]
IntArray = NDArray[np.int64]

_QUOTE, _BACKSLASH, _NEWLINE, _ZERO = b'"\\\n0'
_SHORTEST_LINE = 160
_USER_CHARS, _ITEM_CHARS, _DATE_CHARS, _TIME_CHARS = 32, 24, 24, 16
"""Longest values, with room to see the quote after them; together below the shortest line."""

REVIEW_KEYS: tuple[dict[str, str], ...] = (
    {"reviewerID": schema.USER_ID, "asin": schema.ITEM_ID, "unixReviewTime": schema.TIMESTAMP},
    {"user_id": schema.USER_ID, "parent_asin": schema.ITEM_ID, "timestamp": schema.TIMESTAMP},
)
"""Column by key: the releases of 2014 and 2018, and that of 2023."""

_AFFIXES = re.compile(r"^(?:reviews|ratings|meta)_|_\d+$|\.\d+core$")
"""Text that the releases add to a category's name in their file names."""
_ASIN_CHARS = 10
_STRING = r"""(?:'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")"""
_STRINGS = re.compile(_STRING)
_LITERAL_KEY = r"""\{{(?:[^'"]++|(?!'{key}': ){string})*+'{key}': ({string})"""
_LITERAL_ASIN = re.compile(_LITERAL_KEY.format(key="asin", string=_STRING).encode())
_RELATED = re.compile(
    rf"""\A(\{{(?:[^'"]++|(?!'related': ){_STRING})*+)"""
    rf"""'related': \{{(?:[^{{}}'"]++|{_STRING})*+\}},? ?"""
)
"""Lists of a hundred items that cost most of an evaluation; cut out before it."""
_ESCAPES_OF_PYTHON = re.compile(r"\\[^nrt'\"]")
"""Escapes that JSON lacks, reads in another way, or that stand before a backslash of the text."""
_LITERAL_TITLE = re.compile(_LITERAL_KEY.format(key="title", string=_STRING).encode())
_JSON_ASIN = re.compile(rb'"(?:parent_)?asin"\s*:\s*"([^"\\]+)"')
_JSON_PARENT = re.compile(rb'"parent_asin"\s*:\s*"([^"\\]+)"')
_PLAIN_TITLE = re.compile(rb"['\"][A-Za-z0-9]")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SCRIPT = "getTime()"
"""A piece of page script that some titles of the 2018 release contain."""


class Amazon(Source):
    """Amazon's review releases of 2014, 2018 and 2023."""

    drops_untitled = True

    def read_events(self, path: str) -> pa.Table | pl.DataFrame:
        """User, item and time of each review."""
        return read_reviews(path)

    def read_records(self, path: str, wanted: pa.Array | None) -> pa.Table:
        """The metadata lines of the wanted items."""
        ids = None if wanted is None else {item_id.encode() for item_id in wanted.to_pylist()}
        return records.records_of_rows(list(iter_metadata(path, ids)))

    def parse_record(self, item_id: str, record: bytes) -> dict[str, Any]:
        """A metadata line's title, categories, brand and description."""
        return parse_line(record, f"item {item_id!r}")

    def domain(self, interactions: str | None) -> str:
        """The category in the name of the file."""
        return domains.name_after_file(interactions, _AFFIXES)


def read_reviews(path: str) -> pa.Table | pl.DataFrame:
    """User, item and time of each review: a table if the times were checked, else text.

    Raises:
        DataError: If the file has none of the releases' formats.
    """
    if readers.is_csv(path):
        return _read_ratings(path)
    scanned = scan_reviews(readers.iter_pieces(path))
    if scanned is not None:
        return scanned
    written = ((number, line) for number, line in readers.iter_lines(path) if line.strip())
    number, first = next(written, (0, b""))
    if not number:
        raise DataError(f"{path}: the file is empty; expected one review a line")
    keys = next((k for k in REVIEW_KEYS if all(f'"{key}"'.encode() in first for key in k)), None)
    if keys is None:
        expected = " or ".join(", ".join(k) for k in REVIEW_KEYS)
        raise DataError(f"{path}:{number}: lacks the keys of an Amazon review; expected {expected}")
    return readers.read_json_lines(path, tuple(keys)).rename(keys, strict=False)


def _read_ratings(path: str) -> pl.DataFrame:
    """Ratings-only files: with a header (2023), else user first (2014) or item first (2018)."""
    frame = readers.read_csv(path, has_header=False)
    if frame.row(0)[:2] == ("user_id", "parent_asin"):
        names = dict(zip(frame.columns, frame.row(0), strict=True))
        return frame[1:].rename(names).rename(REVIEW_KEYS[1], strict=False)
    if frame.width != 4:
        raise DataError(
            f"{path}: found {frame.width} columns; expected user, item, rating, time of a "
            "ratings-only file"
        )
    asin_first = bool((frame[:100, 0].str.len_chars() == _ASIN_CHARS).all())
    names_in_order = (schema.USER_ID, schema.ITEM_ID)[:: -1 if asin_first else 1]
    frame.columns = [*names_in_order, schema.RATING, schema.TIMESTAMP]
    return frame


def iter_metadata(path: str, wanted: set[bytes] | None) -> Iterator[tuple[str, bool, bytes]]:
    """Id, whether it has a title, and line of each wanted item (None: of all).

    Raises:
        DataError: If a line breaks off or names no item.
    """
    for number, line in readers.iter_lines(path):
        if not line.strip():
            continue
        if not line.rstrip().endswith(b"}"):
            raise DataError(
                f"{path}:{number}: the line breaks off; expected one whole item a line, so fetch "
                "the file again"
            )
        asin = _find_asin(line)
        if asin is None:
            raise DataError(
                f"{path}:{number}: names no asin or parent_asin; expected Amazon metadata"
            )
        if wanted is None or asin in wanted:
            yield asin.decode(errors="replace"), _has_title(line, f"{path}:{number}"), line


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """A metadata line, JSON or Python literal, as title, categories, brand and description.

    Raises:
        DataError: If it is neither.
    """
    try:
        if _is_literal(line):
            record = parse_literal(_RELATED.sub(r"\1", line.decode(), count=1))
        else:
            record = json.loads(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(
            f"{where}: neither JSON nor a Python literal ({error}); expected one whole item a line"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: not an object; expected one item a line")
    return {
        schema.TITLE: strip_markup(record.get("title")),
        schema.CATEGORIES: record.get("categories") or record.get("category"),
        schema.BRAND: record.get("brand") or record.get("store"),
        schema.DESCRIPTION: record.get("description"),
    }


def parse_literal(text: str) -> Any:
    """``ast.literal_eval`` of a literal of strings, numbers, lists and dicts.

    Most lines become JSON by changing their quotes, which a JSON parser reads ten times as fast.

    Raises:
        ValueError, SyntaxError: If it is no literal.
    """
    if not _ESCAPES_OF_PYTHON.search(text):
        try:
            return json.loads(_STRINGS.sub(_quote_as_json, text), strict=False)
        except ValueError:  # None, True, a tuple, two strings side by side
            pass
    return ast.literal_eval(text)


def _quote_as_json(match: re.Match[str]) -> str:
    text = match[0][1:-1].replace("\\'", "'").replace('\\"', '"')
    return '"' + text.replace('"', '\\"') + '"'


def strip_markup(title: Any) -> str:
    """The title without HTML tags; empty when it is no text, or a piece of page script."""
    if not isinstance(title, str) or _SCRIPT in title:
        return ""
    return _TAG.sub(" ", title) if "<" in title else title


def _is_literal(line: bytes) -> bool:
    return line.startswith(b"{'")


def _find_asin(line: bytes) -> bytes | None:
    if line.startswith(b"{'asin': '"):
        return line[10:].partition(b"'")[0]
    if _is_literal(line):
        match = _LITERAL_ASIN.match(line)
        return match[1][1:-1] if match else None
    match = _JSON_PARENT.search(line) or _JSON_ASIN.search(line)
    return match[1] if match else None


def _has_title(line: bytes, where: str) -> bool:
    if _is_literal(line):
        found = line.find(b"'title': ")
        if found < 0:
            return False
        title = line[found + len("'title': ") :]
        if line.find(b'"', 0, found) >= 0:  # the find may lie inside a text in double quotes
            match = _LITERAL_TITLE.match(line)
            if match is None:
                return False
            title = match[1]
        if _PLAIN_TITLE.match(title) and _SCRIPT.encode() not in title:
            return True
    return bool(clean_title(parse_line(line, where)[schema.TITLE]))


class _OtherLayoutError(Exception):
    """A line does not have the expected layout."""


def scan_reviews(pieces: Iterable[bytes]) -> pa.Table | None:
    """User, item (text) and time (int64) of the lines of a file; None for another layout."""
    try:
        tables = [_scan_piece(piece) for piece in pieces]
    except _OtherLayoutError:
        return None
    return pa.concat_tables(tables) if tables else None


def _scan_piece(piece: bytes) -> pa.Table:
    data = np.frombuffer(piece, dtype=np.uint8)
    ends = _find_newlines(data)
    begins = np.concatenate([[0], ends[:-1] + 1])
    if (ends - begins).min() < _SHORTEST_LINE:
        raise _OtherLayoutError
    users, at = _read_text(data, begins, b'{"reviewerID": "', _USER_CHARS)
    items, _ = _read_text(data, at, b'", "asin": "', _ITEM_CHARS)
    times = _read_times(data[::-1], len(data) - ends)
    return pa.table({schema.USER_ID: users, schema.ITEM_ID: items, schema.TIMESTAMP: times})


def _find_newlines(data: Bytes) -> IntArray:
    """Positions of line ends, given that at most one of 64 consecutive bytes is one."""
    if data[-1] != _NEWLINE:
        raise _OtherLayoutError
    is_newline = data == _NEWLINE
    flags = np.packbits(is_newline, bitorder="little")
    words = np.pad(flags, (0, -len(flags) % 8)).view("<u8")
    places = np.flatnonzero(words)
    if len(places) != np.count_nonzero(is_newline):
        raise _OtherLayoutError
    return np.asarray(places * 64 + np.log2(words[places]).astype(np.int64))


def _read_times(backwards: Bytes, at: IntArray) -> IntArray:
    """The times, read backwards from the line ends; digit i counts 10 to the power i."""
    prefix = b'}"'
    _, lengths = _window(backwards, at, prefix, _DATE_CHARS)
    at = at + len(prefix) + lengths
    prefix = b', "reviewTime": "'[::-1]
    window, lengths = _window(backwards, at, prefix, _TIME_CHARS)
    num_digits = lengths - len(": ")
    _window(backwards, at + len(prefix) + num_digits, b'unixReviewTime": '[::-1], 1)
    digits = (window - _ZERO) * _before(num_digits, _TIME_CHARS)
    if num_digits.min() < 1 or digits.max() > 9:
        raise _OtherLayoutError
    return np.asarray(digits @ 10 ** np.arange(_TIME_CHARS))


def _read_text(
    data: Bytes, at: IntArray, prefix: bytes, width: int
) -> tuple[pa.StringArray, IntArray]:
    """The texts between a prefix and the next quote, and the position of that quote."""
    window, lengths = _window(data, at, prefix, width)
    text = window[_before(lengths, width)]
    if lengths.min() < 1 or (text == _BACKSLASH).any() or (text > 127).any():
        raise _OtherLayoutError
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.StringArray.from_buffers(len(at), pa.py_buffer(offsets), pa.py_buffer(text))
    return values, at + len(prefix) + lengths


def _window(data: Bytes, at: IntArray, prefix: bytes, width: int) -> tuple[Bytes, IntArray]:
    """The bytes after a prefix, shape (lines, width), and how many precede the next quote."""
    size = len(prefix) + width
    rows = np.lib.stride_tricks.sliding_window_view(data, size)[at]
    if (rows[:, : len(prefix)] != np.frombuffer(prefix, dtype=np.uint8)).any():
        raise _OtherLayoutError
    window = rows[:, len(prefix) :]
    is_quote = window == _QUOTE
    lengths = is_quote.argmax(axis=1)
    if not is_quote[np.arange(len(at)), lengths].all():
        raise _OtherLayoutError
    return window, lengths


def _before(lengths: IntArray, width: int) -> NDArray[np.bool_]:
    """Flags of shape (lines, width) for the first ``lengths`` columns of each row."""
    return np.asarray(np.arange(width, dtype=np.uint8) < lengths.astype(np.uint8)[:, None])
