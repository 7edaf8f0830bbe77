"""Files on any pyarrow filesystem: atomic folders, run records, Parquet and JSON.

A path is local or a URI (``s3://``, ``gs://``). A stage writes into a temporary folder and renames
it at the end, so a killed run never leaves a partial result that looks complete.
"""

import contextlib
import fnmatch
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from msrrec.errors import DataError

RECORD = "run.json"
"""The run record that a finished stage leaves in its folder."""
MANIFEST = "manifest.json"
"""The file that marks a folder as a dataset and describes it."""


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path, and the path on that filesystem."""
    if "://" in path:
        filesystem, inner = fs.FileSystem.from_uri(path)
        return filesystem, inner
    return fs.LocalFileSystem(), os.path.abspath(path)


def absolute(path: str) -> str:
    """A local path from the root, ``~`` expanded; a URI as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def join(path: str, *parts: str) -> str:
    """A path inside a folder, local or URI."""
    return "/".join([str(path).rstrip("/"), *parts])


def exists(path: str) -> bool:
    """Whether a file or folder exists at a path."""
    filesystem, inner = resolve(path)
    return bool(filesystem.get_file_info(inner).type != fs.FileType.NotFound)


def is_file(path: str) -> bool:
    """Whether a file, not a folder, exists at a path."""
    filesystem, inner = resolve(path)
    return bool(filesystem.get_file_info(inner).type == fs.FileType.File)


def list_files(path: str) -> list[str]:
    """Names of the files directly in a folder, sorted; empty if the folder does not exist."""
    filesystem, inner = resolve(path)
    selector = fs.FileSelector(inner, allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == fs.FileType.File)


def read_bytes(path: str) -> bytes:
    """The contents of a file."""
    filesystem, inner = resolve(path)
    try:
        with filesystem.open_input_stream(inner, compression=None) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from error


def write_bytes(path: str, content: bytes) -> None:
    """Write a file under a temporary name and rename it; missing folders are created."""
    filesystem, inner = resolve(path)
    filesystem.create_dir(inner.rsplit("/", 1)[0], recursive=True)
    aside = f"{inner}.{uuid.uuid4().hex}.tmp"
    with filesystem.open_output_stream(aside, compression=None) as stream:
        stream.write(content)
    filesystem.move(aside, inner)


def delete_file(path: str) -> None:
    """Delete a file if it exists."""
    filesystem, inner = resolve(path)
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        filesystem.delete_file(inner)


def delete_folder(path: str) -> None:
    """Delete a folder and all its contents if it exists."""
    filesystem, inner = resolve(path)
    if filesystem.get_file_info(inner).type == fs.FileType.Directory:
        filesystem.delete_dir(inner)


def read_json(path: str) -> Any:
    """The contents of a JSON file.

    Raises:
        DataError: If it is missing or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error


def read_object(path: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        DataError: If it is missing, not JSON, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise DataError(f"{path}: holds a JSON {kind}; expected an object; was it edited?")
    return found


def write_json(path: str, value: Any) -> None:
    """Write a JSON file, indented, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_table(path: str, schema: pa.Schema) -> pa.Table:
    """The columns of a schema from a Parquet file.

    Raises:
        DataError: If it is missing, not Parquet, or lacks a column.
    """
    filesystem, inner = resolve(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            check_columns(path, file.schema_arrow.names, schema)
            table = file.read(columns=schema.names)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return table.select(schema.names).cast(schema)


def check_columns(path: str, names: Sequence[str], schema: pa.Schema) -> None:
    """Refuse a file that lacks a column of a schema.

    Raises:
        DataError: If it does.
    """
    missing = [name for name in schema.names if name not in names]
    if missing:
        raise DataError(f"{path}: lacks column {missing[0]!r}; expected {', '.join(schema.names)}")


def iter_tables(path: str, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """The columns of a schema from a Parquet file, at most ``size`` rows at a time.

    Raises:
        DataError: If it is missing, not Parquet, or lacks a column.
    """
    filesystem, inner = resolve(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            check_columns(path, file.schema_arrow.names, schema)
            for batch in file.iter_batches(size, columns=schema.names):
                yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def count_rows(path: str) -> int:
    """Number of rows of a Parquet file, which its end tells.

    Raises:
        DataError: If it is missing or not Parquet.
    """
    filesystem, inner = resolve(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            return int(file.metadata.num_rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


@contextlib.contextmanager
def table_writer(path: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file inside an ``atomic_folder``, to which row groups are written one by one."""
    with open_output(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as file:
        yield file


@contextlib.contextmanager
def open_output(path: str) -> Iterator[Any]:
    """A stream of bytes into a file inside an ``atomic_folder``; missing folders are created."""
    filesystem, inner = resolve(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(inner.rsplit("/", 1)[0], recursive=True)
    with filesystem.open_output_stream(inner, compression=None) as stream:
        yield stream


def sha256(path: str) -> str:
    """The hash of a file's content in hexadecimal digits, read in pieces."""
    filesystem, inner = resolve(path)
    digest = hashlib.sha256()
    try:
        with filesystem.open_input_stream(inner, compression=None) as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from error
    return digest.hexdigest()


def write_table(path: str, table: pa.Table) -> None:
    """Write a Parquet file under a temporary name and rename it."""
    write_bytes(path, table_bytes(table))


def table_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def check_writable(path: str) -> None:
    """Refuse a folder that can't be created or written; the check leaves nothing behind.

    Raises:
        DataError: If the path is a file, or can't be written.
    """
    filesystem, inner = resolve(path)
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        raise DataError(f"{path}: is a file; expected a folder to write, choose another --out")
    if "://" in path:
        return
    parent = inner
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise DataError(f"{path}: {parent} is a file; expected a folder, choose another --out")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error.strerror}); choose another --out"
        ) from error


@contextlib.contextmanager
def atomic_folder(path: str, ours: Sequence[str] = ()) -> Iterator[str]:
    """A temporary folder that is renamed to ``path`` when the block ends without an exception.

    What was at ``path`` is replaced only then. After an exception nothing is left behind.

    Args:
        path: The folder.
        ours: Patterns of the names that a result of this kind has; a folder that holds any other
            name is somebody's and is not replaced.

    Raises:
        DataError: If ``path`` is a file or holds another name.
    """
    filesystem, inner = resolve(path)
    _check_replaceable(filesystem, path, inner, ours)
    aside = f"{inner.rstrip('/')}.{uuid.uuid4().hex[:8]}.partial"
    filesystem.create_dir(aside, recursive=True)
    prefix = path[: -len(inner)] if "://" in path and path.endswith(inner) else ""
    try:
        yield prefix + aside
    except BaseException:
        filesystem.delete_dir(aside)
        raise
    if exists(path):
        filesystem.delete_dir(inner)
    filesystem.move(aside, inner)


def _check_replaceable(
    filesystem: fs.FileSystem, path: str, inner: str, ours: Sequence[str]
) -> None:
    """Refuse to replace a folder that holds anything but a result of the same kind."""
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.File:
        raise DataError(f"{path}: is a file; expected a folder to write, choose another --out")
    found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    names = sorted(str(entry.base_name) for entry in found)
    foreign = [name for name in names if not any(fnmatch.fnmatch(name, known) for known in ours)]
    if foreign:
        raise DataError(
            f"{path}: holds {foreign[0]!r}, which is no part of such a result; choose another "
            "--out, one that is empty or does not exist"
        )
