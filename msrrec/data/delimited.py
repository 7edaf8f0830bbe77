"""Delimited text parsed like Python's ``csv``, with a fast parser for standard files.

A fast parser may misread the quotes of a non-standard file and silently merge rows. Records are
therefore counted here by quotes alone; if a quote is in an unexpected place or the counts differ,
``csv`` reads the file. If ``csv`` fails too, the file is refused with the line.
"""

import codecs
import csv
import io
import logging
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msrrec.data.signatures import guess_unmarked
from msrrec.errors import DataError

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]

SEPARATORS = (",", ";", "\t", "|")
_QUOTE, _NEWLINE, _RETURN = b'"\n\r'
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_LEAST_PROOF = 3
"""Number of characters beyond ASCII that prove a file to be in UTF-8."""
_SEPARATOR_LINE = re.compile(rb'"?sep=([^\r\n"])"?\r?\n', re.IGNORECASE)
"""A first line that names the separator, for Excel."""
_ESCAPED = '\\"'
"""A backslash before a quote, which some programs use to escape it."""
_END = "\0"
"""A marker row appended at the end; if it is not parsed as the last row, a quoted text swallowed
it."""


def decode(path: str, content: bytes, encoding: str | None) -> bytes:
    """The text of a file in UTF-8 without a byte order mark.

    Args:
        path: Path for messages.
        content: Bytes of the file.
        encoding: Encoding of the file; None: by byte order mark, else UTF-8, else Windows-1252.

    Raises:
        DataError: If the text is not in that encoding, or mostly but not wholly in UTF-8.
    """
    for mark, marked in _BOMS.items():
        if content.startswith(mark):
            encoding = encoding or marked
            content = content[len(mark) :] if marked == "utf-8" else content
            break
    if encoding is None:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            _refuse_damaged(path, content, error)
            return _decode_legacy(path, content)
        if "\0" in text[:4]:
            _refuse_unmarked(path, content)
        return content
    try:
        return content.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise DataError(f"{path}: is not {encoding} ({error}); set data.encoding") from error


def _refuse_unmarked(path: str, content: bytes) -> None:
    guess = guess_unmarked(content)
    if guess is not None:
        raise DataError(
            f"{path}: looks like {guess} without a byte order mark, as its first bytes "
            f"{content[:4]!r} say; expected UTF-8 or a mark; set data.encoding={guess}"
        )


def _refuse_damaged(path: str, content: bytes, error: UnicodeDecodeError) -> None:
    """Refuse UTF-8 with some damaged bytes, as any other encoding would garble all accents.

    Text in Windows-1252 hardly ever holds bytes that are characters of UTF-8.
    """
    _refuse_unmarked(path, content)
    text = content.decode(errors="replace")
    num_bad = text.count("\ufffd")
    num_good = sum(map(len, _BEYOND_ASCII.findall(text))) - num_bad
    if num_good < _LEAST_PROOF or num_good <= num_bad:
        return
    line = content.count(b"\n", 0, error.start) + 1
    raise DataError(
        f"{path}:{line}: byte {content[error.start : error.start + 1].hex()} is not UTF-8, but "
        f"{num_good:,} other characters of the file are; expected UTF-8 throughout; mend this "
        "line, or remove such bytes with iconv -c -f utf-8 -t utf-8"
    )


def _decode_legacy(path: str, content: bytes) -> bytes:
    """Decode Windows-1252; its five undefined bytes are read as Latin-1."""
    logger.info("%s: not UTF-8, so read as Windows-1252; set data.encoding to change that", path)
    try:
        return content.decode("cp1252").encode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()


def parse_delimited(
    path: str, content: bytes, separator: str | None = None, has_header: bool = True
) -> pl.DataFrame:
    """The rows as columns of text; missing and empty fields are null.

    Columns of a file without a header are named by their 0-based position. A repeated name is
    followed by a null character and the position, so that all columns differ.

    Args:
        path: Path for error messages.
        content: UTF-8 without a byte order mark.
        separator: Separator between fields; None: detected from the header.
        has_header: Whether the first row holds names.

    Raises:
        DataError: If the file is empty, or a row has more fields than the first or an open quote.
    """
    whole, content = content, content.lstrip(b"\r\n")
    named = _SEPARATOR_LINE.match(content)
    if named is not None:
        separator = separator or named[1].decode()
        content = content[named.end() :].lstrip(b"\r\n")
    if not content.strip():
        raise DataError(f"{path}: the file is empty; expected at least one row")
    separator = separator or _find_separator(content)
    frame = _read_fast(content, separator)
    rows = None
    if frame is None:
        num_skipped = len(whole[: -len(content)].splitlines())
        rows = _read_exactly(path, content.decode(), separator, num_skipped)
    if frame is None:
        assert rows is not None
        frame = pl.DataFrame(
            {str(n): pl.Series(column, dtype=pl.String) for n, column in enumerate(_columns(rows))}
        ).select(pl.all().replace("", None))
    if not has_header:
        return frame
    names = [name or "" for name in frame.row(0)]
    frame = frame[1:]
    frame.columns = [
        name if names.index(name) == n else f"{name}\0{n}" for n, name in enumerate(names)
    ]
    return frame


def _find_separator(content: bytes) -> str:
    """The separator that occurs most often in the first record, outside of quotes."""
    unquoted = content.partition(b"\n")[0].split(b'"')[::2]
    header = b"".join(unquoted).decode(errors="replace")
    return max(SEPARATORS, key=header.count)


def _read_fast(content: bytes, separator: str) -> pl.DataFrame | None:
    """A standard file read by the fast parser; None if it is not standard or rows are missing."""
    breaks = _find_breaks(content, separator)
    if breaks is None or _ESCAPED.encode() in content:
        return None
    quote = {} if b'"' in content else {"quote_char": None}
    try:
        frame = pl.read_csv(
            content,
            has_header=False,
            separator=separator,
            infer_schema=False,
            **quote,
        )
    except pl.exceptions.PolarsError:
        return None
    if frame.height != breaks.count_records(content):
        return None
    if _may_swallow(content, breaks, separator, frame.width):
        return None
    frame.columns = [str(n) for n in range(frame.width)]
    return frame


@dataclass(frozen=True)
class _Breaks:
    """The line ends of a standard file.

    Attributes:
        places: Shape (L,). Positions of line ends; one stands after the last line in any case.
        is_inside: Shape (L,). Whether a line end is inside of quotes.
    """

    places: NDArray[np.int64]
    is_inside: NDArray[np.bool_]

    def count_records(self, content: bytes) -> int:
        """Number of records that are not blank."""
        data = np.frombuffer(content, dtype=np.uint8)
        breaks = self.places[~self.is_inside]
        lengths = np.diff(breaks, prepend=-1) - 1
        has_return = data[np.maximum(breaks - 1, 0)] == _RETURN
        return int(np.count_nonzero(lengths - has_return > 0))


def count_records(content: bytes, separator: str) -> int | None:
    """Number of rows of a standard file without blank lines; None if it is not standard.

    In the standard (RFC 4180) a quoted text begins after a separator or line end and ends before
    one, quotes inside are doubled, and lines end in LF or CRLF. So a line end between two quotes
    belongs to a text, and every other one ends a row.
    """
    breaks = _find_breaks(content, separator)
    return None if breaks is None else breaks.count_records(content)


def _find_breaks(content: bytes, separator: str) -> _Breaks | None:
    data = np.frombuffer(content, dtype=np.uint8)
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        return None
    breaks = np.flatnonzero(data == _NEWLINE)
    is_inside = np.zeros(len(breaks), dtype=bool)
    if b'"' in content:
        quotes = np.flatnonzero(data == _QUOTE)
        if len(quotes) % 2 or not _stand_at_edges(data, quotes, ord(separator)):
            return None
        is_inside = np.searchsorted(quotes, breaks) % 2 == 1
    if data[-1] != _NEWLINE:
        breaks, is_inside = np.append(breaks, len(data)), np.append(is_inside, False)
    return _Breaks(breaks, is_inside)


def _may_swallow(content: bytes, breaks: _Breaks, separator: str, width: int) -> bool:
    """Whether a row of several lines might be several rows; see ``_are_rows``."""
    if not breaks.is_inside.any():
        return False
    data = np.frombuffer(content, dtype=np.uint8)
    separators = np.flatnonzero(data == ord(separator))
    counts = np.diff(np.searchsorted(separators, breaks.places), prepend=0)
    last = np.flatnonzero(~breaks.is_inside)
    first = np.append(0, last[:-1] + 1)
    least = np.minimum.reduceat(counts, first)
    begins = np.append(0, breaks.places[:-1] + 1)
    for record in np.flatnonzero((last > first) & (least >= width - 1)):
        text = content[begins[first[record]] : breaks.places[last[record]]].decode()
        if _are_rows(text.split("\n"), separator, width):
            return True
    return False


def _are_rows(lines: list[str], separator: str, width: int) -> bool:
    """Whether each line inside of one quoted text has by itself as many fields as the header.

    Then two stray quotes have swallowed the rows between them. In prose, other than in data, a
    comma is followed by a space.
    """
    if width < 2 or any(separator + " " in line for line in lines):
        return False
    return all(
        width in (line.count(separator) + 1, len(next(csv.reader([line], delimiter=separator), [])))
        for line in lines
    )


def _stand_at_edges(data: Bytes, quotes: NDArray[np.int64], separator: int) -> bool:
    """Whether every quote opens or closes a field, or is one of two doubled quotes."""
    opens, closes = quotes[::2], quotes[1::2]
    before = opens[1:] if opens[0] == 0 else opens
    after = closes[:-1] if closes[-1] == len(data) - 1 else closes
    may_open, may_close = np.zeros(256, dtype=bool), np.zeros(256, dtype=bool)
    may_open[[separator, _NEWLINE, _QUOTE]] = True
    may_close[[separator, _NEWLINE, _RETURN, _QUOTE]] = True
    return bool(may_open[data[before - 1]].all() and may_close[data[after + 1]].all())


def _read_exactly(path: str, text: str, separator: str, num_skipped: int) -> list[list[str]]:
    """The rows by Python's ``csv``: first strictly, then with backslash escapes, then leniently.

    Messages count the lines that were skipped before the text.
    """
    csv.field_size_limit(sys.maxsize)
    rows, line = _read_rows(text, separator, strict=True)
    if _ESCAPED in text:
        escaped, failed = _read_rows(text, separator, strict=True, escapechar="\\")
        fits = not failed and _find_wide(escaped) is None
        if fits and (line or len(escaped) > len(rows)):
            logger.info("%s: quotes inside texts are escaped by backslashes", path)
            return _trim(escaped)
    if line:
        rows, line = _read_rows(text, separator, strict=False)
        if not line and _ESCAPED in text:
            line = _find_doubtful(text, separator, rows)
    if line:
        raise DataError(
            f"{path}:{line + num_skipped}: a quoted text begins here and does not end as one, or "
            "holds whole rows; expected quotes inside a text to be doubled, so that no row is part "
            "of one; a text that does look like rows can be read from JSON lines or Parquet"
        )
    wide = _find_wide(rows)
    if wide is not None:
        line, row = _locate(text, separator, wide), rows[wide]
        raise DataError(
            f"{path}:{line + num_skipped}: found {len(row)} fields; expected {len(rows[0])} as in "
            f"the first row; quote texts that hold {separator!r}, or set data.separator"
        )
    return _trim(rows)


def _read_rows(
    text: str, separator: str, strict: bool, **options: Any
) -> tuple[list[list[str]], int]:
    """The rows that are not blank, and the line of the first unreliable one (0: none)."""
    lines = list(io.StringIO(f"{text}\n{_END}", newline=""))
    reader = csv.reader(lines, delimiter=separator, strict=strict, **options)
    rows: list[list[str]] = []
    begin = 0
    try:
        for row in reader:
            end = reader.line_num
            several = lines[begin:end] if end - begin > 1 else []
            if several and not strict and not _is_sound(several, separator):
                return rows, begin + 1
            if several and rows and _are_rows(several, separator, len(rows[0])):
                return rows, begin + 1
            if row:
                rows.append(row)
            begin = end if end < len(lines) else begin
    except csv.Error:
        return rows, begin + 1
    return (rows[:-1], 0) if rows[-1] == [_END] else (rows, begin + 1)


def _find_doubtful(text: str, separator: str, rows: list[list[str]]) -> int:
    """The line of the first multi-line row that backslash escapes might split; 0 for none."""
    escaped, _ = _read_rows(text, separator, strict=False, escapechar="\\")
    several = (n for n, row in enumerate(rows) if "\n" in "".join(row))
    return _locate(text, separator, next(several, 0)) if len(escaped) != len(rows) else 0


def _is_sound(lines: list[str], separator: str) -> bool:
    """Whether a multi-line row is one row by the strict rules too.

    The lenient parser continues after the closing quote of a text, so it may merge two rows.
    """
    try:
        return len(list(csv.reader(lines, delimiter=separator, strict=True))) == 1
    except csv.Error:
        return False


def _find_wide(rows: list[list[str]]) -> int | None:
    """The first row with more fields than the header, ignoring empty fields at its end."""
    width = len(rows[0])
    return next((n for n, row in enumerate(rows) if any(row[width:])), None)


def _locate(text: str, separator: str, place: int) -> int:
    """The line on which a row ends; rows are counted from 0 without blank ones."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for row in reader:
        place -= bool(row)
        if place < 0:
            break
    return reader.line_num


def _trim(rows: list[list[str]]) -> list[list[str]]:
    width = len(rows[0])
    return [row[:width] for row in rows]


def _columns(rows: list[list[str]]) -> list[tuple[str | None, ...]]:
    width = len(rows[0])
    padded = [[*row, *[None] * (width - len(row))] for row in rows]
    return list(zip(*padded, strict=True))
