"""Bytes of a file as columns of text, as fast as a column reader goes, and errors with their place.

Files are local or remote, plain or gzip (told by their first bytes). JSON lines are parsed in
pieces of whole lines while a thread decompresses the next piece with ISA-L.
"""

import fnmatch
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from msrrec import storage
from msrrec.errors import DataError

SUFFIXES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")
PIECE_BYTES = 2 << 20
"""Decompressed bytes parsed at once; larger pieces fall out of the processor's cache."""


def find_files(path: str) -> list[str]:
    """The files that a file name, a folder or a pattern (``part-*.csv``) stands for, by name.

    Raises:
        DataError: If there are none.
    """
    filesystem, inner = storage.resolve(path)
    folder, name = path.rstrip("/").rpartition("/")[::2]
    if any(sign in name for sign in "*?["):
        found = fnmatch.filter(storage.list_files(folder or "."), name)
    else:
        kind = filesystem.get_file_info(inner).type
        if kind == fs.FileType.File:
            return [path]
        if kind == fs.FileType.NotFound:
            raise DataError(f"{path}: no such file or folder; expected the source's files there")
        folder = path
        found = [n for n in storage.list_files(path) if _suffix(n) in SUFFIXES]
    if not found:
        raise DataError(f"{path}: matches no file; expected {', '.join(SUFFIXES)}, plain or .gz")
    return [storage.join(folder or ".", name) for name in sorted(found)]


def read_text_columns(path: str, names: Sequence[str]) -> pl.DataFrame:
    """Columns of a CSV, JSON lines or Parquet file as text, null where a row has none.

    A column that the file lacks is left out; a JSON key counts as lacking when no line has it.

    Raises:
        DataError: If the file can't be read or holds no rows.
    """
    suffix = _suffix(path)
    if suffix == ".parquet":
        frame = _read_parquet(path, names)
    elif suffix == ".csv":
        frame = read_csv(path, has_header=True)
    elif suffix in SUFFIXES:
        frame = read_json_lines(path, names)
    else:
        raise DataError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)} or .gz")
    if frame.is_empty():
        raise DataError(f"{path}: holds no rows; expected at least one")
    return frame.select(name for name in names if name in frame.columns)


def select_columns(
    path: str, frame: pl.DataFrame, names: Sequence[str], required: Sequence[str]
) -> pl.DataFrame:
    """The columns of a frame that are named, in that order.

    Raises:
        DataError: If a required one is missing, or there are no rows.
    """
    for name in required:
        if name not in frame.columns:
            raise DataError(f"{path}: lacks column {name!r}; expected {', '.join(names)}")
    if frame.is_empty():
        raise DataError(f"{path}: holds no rows; expected at least one")
    return frame.select(name for name in names if name in frame.columns)


def read_csv(path: str, has_header: bool, separator: str = ",", **options: Any) -> pl.DataFrame:
    """A delimited file, every column as text.

    Raises:
        DataError: If it is empty or not such a file.
    """
    return parse_csv(path, read_content(path), has_header, separator, **options)


def is_csv(path: str) -> bool:
    """Whether the name says so."""
    return _suffix(path) == ".csv"


def parse_csv(
    path: str, content: bytes, has_header: bool, separator: str, **options: Any
) -> pl.DataFrame:
    """Delimited text, every column as text; ``path`` is for errors."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise DataError(f"{path}: the file is empty; expected at least one row")
    try:
        return pl.read_csv(
            content, has_header=has_header, separator=separator, infer_schema=False, **options
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a CSV file ({_first_line(error)})") from error


def read_json_lines(path: str, names: Sequence[str]) -> pl.DataFrame:
    """Keys of a JSON lines file as columns of text; keys that no line has are left out.

    Raises:
        DataError: If the file is empty or a line is not a JSON object; names the line.
    """
    schema = dict.fromkeys(names, pl.String)
    frames = []
    for piece in iter_pieces(path):
        try:
            frames.append(pl.read_ndjson(piece, schema=schema))
        except pl.exceptions.PolarsError as error:
            raise _explain_json(path, error) from error
    if not frames:
        raise DataError(f"{path}: the file is empty; expected at least one line")
    frame = pl.concat(frames, rechunk=False)
    return frame.select(name for name in names if frame[name].null_count() < frame.height)


def locate_row(path: str, row: int) -> str:
    """Where the 0-based data row of a file stands: ``file:line`` for JSON lines, else its row."""
    if _suffix(path) in (".csv", ".parquet"):
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
        for text in piece.splitlines():
            yield line, text
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
            rest = b""
            for block in _read_ahead(stream):
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
        raise DataError(f"{path}: can't be read ({_first_line(error)})") from error


def _open(raw: pa.NativeFile) -> IO[bytes]:
    head = raw.read(2)
    stream = io.BufferedReader(_Rewound(head, raw), 1 << 20)
    if head != b"\x1f\x8b":
        return stream
    from isal import igzip

    unpacked: IO[bytes] = igzip.IGzipFile(fileobj=stream)
    return unpacked


def _read_ahead(stream: IO[bytes]) -> Iterator[bytes]:
    """Blocks of a stream, the next one being read while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(stream.read, PIECE_BYTES)
        while block := ahead.result():
            ahead = pool.submit(stream.read, PIECE_BYTES)
            yield block


class _Rewound(io.RawIOBase):
    """A stream whose first bytes were already read; object stores can't seek back."""

    def __init__(self, head: bytes, raw: pa.NativeFile) -> None:
        self._head, self._raw = head, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._raw.read(len(buffer))
        self._head = b""
        buffer[: len(data)] = data
        return len(data)


def _read_parquet(path: str, names: Sequence[str]) -> pl.DataFrame:
    filesystem, inner = storage.resolve(path)
    try:
        file = pq.ParquetFile(inner, filesystem=filesystem)
        table = file.read([name for name in names if name in file.schema_arrow.names])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file ({_first_line(error)})") from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(_as_text(column) for column in frame.iter_columns())


def _as_text(column: pl.Series) -> pl.Series:
    """Text of a Parquet column: lists as JSON, moments as whole microseconds."""
    if column.dtype.is_nested():
        return pl.Series(column.name, [v and json.dumps(v) for v in column.to_list()], pl.String)
    if column.dtype == pl.Datetime:
        column = column.dt.timestamp("us")
    return column.cast(pl.String)


def _explain_json(path: str, error: Exception) -> DataError:
    """The first line that is no JSON object, found by reading the file again."""
    for line, text in iter_lines(path):
        try:
            if text.strip() and not isinstance(json.loads(text), dict):
                return DataError(f"{path}:{line}: not a JSON object; expected one a line")
        except ValueError as problem:
            return DataError(f"{path}:{line}: not JSON ({problem}); expected one object a line")
    return DataError(f"{path}: not JSON lines ({_first_line(error)})")


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2].lower().removesuffix(".gz")
    return "." + name.rpartition(".")[2]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
