"""Reads files into columns of text, fast, and with the place of every error.

Files are local or remote, plain or gzip (recognised by their first bytes). JSON lines are parsed in
pieces of whole lines, while a thread decompresses the next piece with ISA-L.
"""

import codecs
import contextlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import IO, Any

import polars as pl
import pyarrow as pa

from msrrec import storage
from msrrec.data import json_lines
from msrrec.data.columns import ColumnChoice
from msrrec.data.delimited import decode, parse_delimited
from msrrec.data.folders import DELIMITED, SUFFIXES, suffix
from msrrec.data.parquet import read_parquet
from msrrec.data.signatures import refuse_binary
from msrrec.errors import DataError, first_line

PIECE_BYTES = 2 << 20
"""Number of decompressed bytes parsed at once; larger pieces exceed the CPU's cache."""
_LINES_FOR_KEYS = 1000
"""Number of lines of a JSON lines file whose keys are collected before it is read."""


def file_size(path: str) -> int:
    """Size of a file in bytes as stored; 0 if it does not exist."""
    if not path:
        return 0
    filesystem, inner = storage.resolve(path)
    with storage.told(path):
        return int(filesystem.get_file_info(inner).size or 0)


def read_columns(
    path: str, choice: ColumnChoice, separator: str | None = None, encoding: str | None = None
) -> pl.DataFrame:
    """The chosen columns of a CSV, JSON lines or Parquet file, as text.

    Missing values are null. Columns are named as in the choice. An optional column that the file
    lacks is left out; a JSON key counts as lacking if no line has it.

    Args:
        path: The file.
        choice: The columns to find.
        separator: Separator of the fields of a CSV file; None: detected from the header.
        encoding: Encoding of a text file; None: detected.

    Raises:
        DataError: If the file can't be read, lacks a column or holds no rows.
    """
    ending = suffix(path)
    shown: Sequence[str] | None = None
    if ending == ".parquet":
        shown, frame = read_parquet(path, choice)
    elif ending in DELIMITED:
        frame = read_csv(path, separator=separator, encoding=encoding)
    elif ending in SUFFIXES:
        shown = _list_keys(path, encoding)
        frame = read_json_lines(path, choice.possible_names(shown), encoding)
    else:
        raise DataError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)} or .gz")
    plain_names = [name.partition("\0")[0] for name in frame.columns]
    matched = choice.match(path, plain_names, shown)
    if frame.is_empty():
        raise DataError(f"{path}: holds no rows; expected at least one")
    return frame.select(pl.col(own).alias(name) for name, own in matched.items())


def select_columns(
    path: str, frame: pl.DataFrame, names: Sequence[str], required: Sequence[str]
) -> pl.DataFrame:
    """The named columns of a frame, in that order.

    Raises:
        DataError: If a required one is missing, or there are no rows.
    """
    for name in required:
        if name not in frame.columns:
            raise DataError(f"{path}: lacks column {name!r}; expected {', '.join(names)}")
    if frame.is_empty():
        raise DataError(f"{path}: holds no rows; expected at least one")
    return frame.select(name for name in names if name in frame.columns)


def read_csv(
    path: str, has_header: bool = True, separator: str | None = None, encoding: str | None = None
) -> pl.DataFrame:
    """A delimited file, every column as text; see ``parse_delimited``.

    Raises:
        DataError: If it is empty or not such a file.
    """
    content = decode(path, read_content(path), encoding)
    return parse_delimited(path, content, separator, has_header)


def is_csv(path: str) -> bool:
    """Whether a file's name says that it is CSV."""
    return suffix(path) in DELIMITED


def read_json_lines(path: str, names: Sequence[str], encoding: str | None = None) -> pl.DataFrame:
    """Keys of a JSON lines file as columns of text; keys that no line has are left out.

    Raises:
        DataError: If the file is empty or a line is not a JSON object; names the line.
    """
    frames, line = [], 1
    for piece in _iter_text(path, encoding):
        frames.append(json_lines.parse_piece(path, piece, line, names))
        line += piece.count(b"\n")
    if not any(frame.height for frame in frames):
        raise DataError(f"{path}: the file is empty; expected at least one line")
    frame = pl.concat(frames, rechunk=False)
    return frame.select(name for name in names if frame[name].null_count() < frame.height)


def _list_keys(path: str, encoding: str | None) -> list[str]:
    """The keys in the first lines of a JSON lines file, in order of appearance."""
    keys: dict[str, None] = {}
    lines = (line for piece in _iter_text(path, encoding) for line in piece.split(b"\n"))
    for text in islice(lines, _LINES_FOR_KEYS):
        with contextlib.suppress(ValueError):  # reported later, with its line
            record = json.loads(text)
            if isinstance(record, dict):
                keys |= dict.fromkeys(record)
    return list(keys)


def _iter_text(path: str, encoding: str | None) -> Iterator[bytes]:
    """Pieces of whole lines in UTF-8; the whole file at once for other encodings."""
    pieces = iter_pieces(path)
    first = next(pieces, b"")
    wide = first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in first[:4]
    if encoding is not None or wide:
        yield decode(path, first + b"".join(pieces), encoding)
        return
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from pieces


def locate_row(path: str, row: int) -> str:
    """The place of a 0-based data row: ``file:line`` for JSON lines, else file and row."""
    if suffix(path) in (*DELIMITED, ".parquet"):
        return f"{path}: row {row + 1}"
    for line, text in iter_lines(path):
        if text.strip():
            row -= 1
        if row < 0:
            return f"{path}:{line}"
    return path


def iter_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file and their numbers from 1."""
    line = 1
    for piece in iter_pieces(path):
        for text in piece.removesuffix(b"\n").split(b"\n"):
            yield line, text.removesuffix(b"\r")
            line += 1


def read_content(path: str) -> bytes:
    """The whole file, decompressed."""
    return b"".join(iter_pieces(path))


def iter_pieces(path: str) -> Iterator[bytes]:
    """The file in order, decompressed, in pieces of whole lines.

    Raises:
        DataError: If it can't be read, or its gzip stream is damaged or ends too soon.
    """
    filesystem, inner = storage.resolve(path)
    try:
        with filesystem.open_input_stream(inner, compression=None) as raw, _open(raw) as stream:
            rest, is_first = b"", True
            for block in _read_ahead(stream):
                if is_first:
                    refuse_binary(path, block)
                    is_first = False
                end = block.rfind(b"\n") + 1
                if end:
                    yield rest + block[:end]
                    rest = block[end:]
                else:
                    rest += block
            if rest:
                yield rest
    except EOFError as error:
        raise DataError(
            f"{path}: the gzip stream ends too soon; expected a complete file, so fetch it again"
        ) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: can't be read ({first_line(error)})") from error


def _open(raw: pa.NativeFile) -> IO[bytes]:
    head = raw.read(2)
    stream = io.BufferedReader(_Rewound(head, raw), 1 << 20)
    if head != b"\x1f\x8b":
        return stream
    from isal import igzip

    unpacked: IO[bytes] = igzip.IGzipFile(fileobj=stream)
    return unpacked


def _read_ahead(stream: IO[bytes]) -> Iterator[bytes]:
    """Blocks of a stream; the next one is read while the current one is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(stream.read, PIECE_BYTES)
        while block := ahead.result():
            ahead = pool.submit(stream.read, PIECE_BYTES)
            yield block


class _Rewound(io.RawIOBase):
    """A stream that repeats the bytes already read from it, as object stores can't seek back."""

    def __init__(self, head: bytes, raw: pa.NativeFile) -> None:
        self._head, self._raw = head, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._raw.read(len(buffer))
        self._head = b""
        buffer[: len(data)] = data
        return len(data)
