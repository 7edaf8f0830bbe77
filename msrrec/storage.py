"""Files on any pyarrow filesystem: atomic folders, run records, Parquet and JSON.

A path is a ``str``: local, or a URI such as ``s3://bucket/folder?scheme=http``, whose options stay
at its end. This module alone takes paths apart and puts them together. A stage writes into a
temporary folder and renames it at the end, so a killed run never leaves a partial result that looks
complete.
"""

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from msrrec.errors import DataError, hide_credentials
from msrrec.object_store import connect, split_options
from msrrec.object_store import is_uri as is_uri
from msrrec.object_store import told as told

RECORD = "run.json"
"""The run record that a finished stage leaves in its folder."""
MANIFEST = "manifest.json"
"""The file that marks a folder as a dataset and describes it."""
INDEX = "index.json"
"""The file that marks a folder as an index and describes it, with the hash of every other file."""


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path, and the path on that filesystem.

    Raises:
        DataError: If a URI is wrong, or its store does not answer or lacks the bucket.
    """
    if not is_uri(path):
        return fs.LocalFileSystem(), os.path.abspath(path)
    filesystem, root, inner = connect(path)
    return filesystem, f"{root.rstrip('/')}/{inner}" if inner else root


def is_object_store(path: str) -> bool:
    """Whether a path is on an object store, which has no folders, no renaming and no appending."""
    return not isinstance(resolve(path)[0], fs.LocalFileSystem)


def shown(path: str) -> str:
    """A path as people and files may see it, without the credentials of a URI."""
    return hide_credentials(path)


def absolute(path: str) -> str:
    """A local path from the root, ``~`` expanded; a URI as it is."""
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def join(path: str, *parts: str) -> str:
    """A path inside a folder."""
    base, options = split_options(path)
    return "/".join([base.rstrip("/"), *parts]) + options


def parent(path: str) -> str:
    """The folder that holds a file or folder; a bucket and the root are their own."""
    base, options = split_options(path)
    if not is_uri(path):
        return os.path.dirname(base.rstrip("/") or "/") or "."
    scheme, _, rest = base.partition("://")
    authority, _, inner = rest.partition("/")
    above = inner.strip("/").rpartition("/")[0]
    return f"{scheme}://{authority}{'/' if above else ''}{above}{options}"


def base_name(path: str) -> str:
    """The last name of a path; of a bucket, the bucket's."""
    base, _ = split_options(path)
    return base.rstrip("/").rpartition("/")[2].rpartition("@")[2]


def beside(path: str, suffix: str) -> str:
    """A path whose last name is longer by a suffix, such as ``out.journal`` beside ``out``."""
    base, options = split_options(path)
    return base.rstrip("/") + suffix + options


def without_options(path: str) -> str:
    """A path without the options of a URI, for what looks at the end of a name."""
    return split_options(path)[0]


@dataclass(frozen=True)
class Entry:
    """A file below a folder.

    Attributes:
        name: Path from the folder, with forward slashes.
        size: In bytes.
        modified_ns: Time of the last change, in nanoseconds since 1970.
    """

    name: str
    size: int
    modified_ns: int


def walk(path: str) -> list[Entry]:
    """All files below a folder, sorted by name; none if the folder does not exist."""
    filesystem, inner = resolve(path)
    with told(path):
        found = filesystem.get_file_info(
            fs.FileSelector(inner, allow_not_found=True, recursive=True)
        )
    start = len(inner.rstrip("/")) + 1
    files = [info for info in found if info.type == fs.FileType.File]
    entries = [Entry(i.path[start:], int(i.size), int(i.mtime_ns or 0)) for i in files]
    return sorted(entries, key=lambda entry: entry.name)


def exists(path: str) -> bool:
    """Whether a file or folder exists at a path."""
    return bool(_kind(path) != fs.FileType.NotFound)


def is_file(path: str) -> bool:
    """Whether a file, not a folder, exists at a path."""
    return bool(_kind(path) == fs.FileType.File)


def _kind(path: str) -> fs.FileType:
    filesystem, inner = resolve(path)
    with told(path):
        return filesystem.get_file_info(inner).type


def list_files(path: str) -> list[str]:
    """Names of the files directly in a folder, sorted; empty if the folder does not exist."""
    return _list(path, fs.FileType.File)


def list_folders(path: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; empty if the folder does not exist."""
    if resolve(path)[0].type_name == "gcs":  # it lists only folders that are objects of their own
        return sorted({entry.name.partition("/")[0] for entry in walk(path) if "/" in entry.name})
    return _list(path, fs.FileType.Directory)


def _list(path: str, kind: fs.FileType) -> list[str]:
    filesystem, inner = resolve(path)
    with told(path):
        infos = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == kind)


def read_bytes(path: str) -> bytes:
    """The contents of a file."""
    filesystem, inner = resolve(path)
    try:
        with told(path), filesystem.open_input_stream(inner, compression=None) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from error


def write_bytes(path: str, content: bytes) -> None:
    """Write a file, which appears whole or not at all; missing folders are created.

    A local file is written under a temporary name and renamed; an object appears when all of it is
    there.
    """
    filesystem, inner = resolve(path)
    is_local = isinstance(filesystem, fs.LocalFileSystem)
    aside = f"{inner}.{uuid.uuid4().hex}.tmp" if is_local else inner
    with told(path):
        if is_local:
            filesystem.create_dir(inner.rsplit("/", 1)[0], recursive=True)
        with filesystem.open_output_stream(aside, compression=None) as stream:
            stream.write(content)
        if is_local:
            filesystem.move(aside, inner)


def delete_file(path: str) -> None:
    """Delete a file if it exists."""
    filesystem, inner = resolve(path)
    with told(path):
        if filesystem.get_file_info(inner).type == fs.FileType.File:
            filesystem.delete_file(inner)


def delete_folder(path: str) -> None:
    """Delete a folder and all its contents if it exists; its records first.

    On an object store a folder is deleted one file after the other, so a folder that is deleted in
    part must not look like a finished one.
    """
    filesystem, inner = resolve(path)
    with told(path):
        if filesystem.get_file_info(inner).type != fs.FileType.Directory:
            return
        for entry in walk(path) if is_object_store(path) else []:
            if entry.name.endswith((".json", ".jsonl")):
                filesystem.delete_file(f"{inner}/{entry.name}")
        with contextlib.suppress(FileNotFoundError):  # Google's, which had no object for the folder
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
    """Write a JSON file, indented, keys in the order given, without credentials of URIs."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, hide_credentials(text).encode())


def read_table(path: str, schema: pa.Schema) -> pa.Table:
    """The columns of a schema from a Parquet file.

    Raises:
        DataError: If it is missing, not Parquet, or lacks a column or a value that must be there.
    """
    with _open_parquet(path) as file:
        check_columns(path, file.schema_arrow.names, schema)
        table = file.read(columns=schema.names)
    return _conform(path, table, schema)


def check_columns(path: str, names: Sequence[str], schema: pa.Schema) -> None:
    """Refuse a file that lacks a column of a schema, or has one twice.

    Raises:
        DataError: If it does.
    """
    missing = [name for name in schema.names if name not in names]
    if missing:
        raise DataError(f"{path}: lacks column {missing[0]!r}; expected {', '.join(schema.names)}")
    doubled = [name for name in schema.names if list(names).count(name) > 1]
    if doubled:
        raise DataError(f"{path}: has column {doubled[0]!r} twice; expected it once")


def iter_tables(path: str, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """The columns of a schema from a Parquet file, at most ``size`` rows at a time.

    Raises:
        DataError: If it is missing, not Parquet, lacks a column or a value that must be there, or
            has a value of another type.
    """
    with _open_parquet(path) as file:
        check_columns(path, file.schema_arrow.names, schema)
        for batch in file.iter_batches(size, columns=schema.names):
            yield _conform(path, pa.Table.from_batches([batch]), schema)


def _conform(path: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, in its types."""
    columns = [_convert(f"{path}: column {f.name!r}", table[f.name], f) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _convert(where: str, column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column in the type of a field; NaN is no value unless the type has it."""
    kind = column.type
    if pa.types.is_floating(kind) and not pa.types.is_floating(field.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    if column.null_count and not field.nullable:
        raise DataError(f"{where} has rows without a value; expected one in each row")
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if is_number and pa.types.is_boolean(field.type):  # Arrow takes 0.5 and 2 for true
        other = set(column.unique().to_pylist()) - {0, 1, None}
        if other:
            raise DataError(f"{where} holds {other.pop()}; expected true or false in each row")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{where} holds other values than {field.type} ({error}); write it in this type"
        ) from error


def iter_rows(path: str, schema: pa.Schema, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some of a schema's columns from a Parquet file, row by row, few of them in memory at once.

    Raises:
        DataError: If it is missing, not Parquet, or lacks a column.
    """
    for table in iter_tables(path, pa.schema([schema.field(name) for name in names]), 5_000):
        yield from table.to_pylist()


def count_rows(path: str) -> int:
    """Number of rows of a Parquet file, which its end tells.

    Raises:
        DataError: If it is missing or not Parquet.
    """
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


@contextlib.contextmanager
def _open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; what can't be read within the block is a DataError."""
    filesystem, inner = resolve(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            yield file
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
    with told(path):
        if filesystem.get_file_info(inner).type == fs.FileType.File:
            raise DataError(f"{path}: is a file; expected a folder to write, choose another --out")
    if not isinstance(filesystem, fs.LocalFileSystem):
        return
    above = inner
    while not os.path.exists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise DataError(f"{path}: {above} is a file; expected a folder, choose another --out")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error.strerror}); choose another --out"
        ) from error


def atomic_folder(path: str, ours: Sequence[str] = ()) -> AbstractContextManager[str]:
    """A folder to write into, which is complete at ``path`` when the block ends without exception.

    Locally it is a temporary folder that is then renamed; what was at ``path`` is replaced only
    then, and after an exception nothing is left behind. Object stores can't rename: there what was
    at ``path`` is deleted at the start, its records first, and the block writes to ``path`` itself,
    the file that marks the result as complete last. What a killed block leaves is so ignored by
    readers, and deleted by the next one.

    Args:
        path: The folder.
        ours: Patterns of the names that a result of this kind has; a folder that holds any other
            name is somebody's and is not replaced.

    Raises:
        DataError: If ``path`` is a file or holds another name.
    """
    filesystem, inner = resolve(path)
    with told(path):
        _check_replaceable(filesystem, path, inner, ours)
    with contextlib.suppress(OSError):  # one may have no rights to see what is beside it
        _sweep(filesystem, inner)
    if isinstance(filesystem, fs.LocalFileSystem):
        return _renamed_folder(filesystem, path, inner)
    return _written_folder(path)


@contextlib.contextmanager
def _renamed_folder(filesystem: fs.FileSystem, path: str, inner: str) -> Iterator[str]:
    folder = beside(path, f".{uuid.uuid4().hex[:8]}.partial")
    aside = resolve(folder)[1]
    filesystem.create_dir(aside, recursive=True)
    try:
        yield folder
    except BaseException:
        filesystem.delete_dir(aside)
        raise
    if exists(path):
        filesystem.delete_dir(inner)
    filesystem.move(aside, inner)


@contextlib.contextmanager
def _written_folder(path: str) -> Iterator[str]:
    delete_folder(path)
    try:
        yield path
    except BaseException:
        with contextlib.suppress(DataError):  # the store may be what failed
            delete_folder(path)
        raise


def _sweep(filesystem: fs.FileSystem, inner: str) -> None:
    """Delete the temporary folders that killed runs have left beside a folder."""
    above, _, name = inner.rstrip("/").rpartition("/")
    if not above:
        return
    for info in filesystem.get_file_info(fs.FileSelector(above, allow_not_found=True)):
        found = info.base_name
        if info.type == fs.FileType.Directory and found != name == _PARTIAL.sub("", found):
            filesystem.delete_dir(info.path)


_PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial$")


def is_leftover(path: str) -> bool:
    """Whether a path lies in a temporary folder, or is a temporary file, of a killed run."""
    names = without_options(path).split("/")
    return any(_PARTIAL.search(name) or name.endswith(".tmp") for name in names)


@contextlib.contextmanager
def built_folder(path: str, ours: Sequence[str] = (), last: str | None = None) -> Iterator[str]:
    """A folder on this machine, whose files are at ``path`` when the block ends without exception.

    For libraries that write local files alone. It is as atomic as ``atomic_folder``.

    Args:
        path: The folder, local or a URI.
        ours: As for ``atomic_folder``.
        last: Name of the file that marks the folder as complete, which is uploaded last.
    """
    if not is_object_store(path):
        with atomic_folder(path, ours) as aside:
            yield aside
        return
    with tempfile.TemporaryDirectory(prefix="msrrec-") as aside:
        yield aside
        with atomic_folder(path, ours):
            names = [entry.name for entry in walk(aside)]
            for name in sorted(names, key=lambda name: (name == last, name)):
                copy_file(join(aside, name), join(path, name))


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A folder on this machine with the files of ``path``, for libraries that read local files.

    It is ``path`` itself, or a copy that is deleted when the block ends.
    """
    if not is_object_store(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="msrrec-") as folder:
        copy_folder(path, folder)
        yield folder


def make_folder(path: str) -> None:
    """Create a folder and those above it; object stores have none, so nothing is done there."""
    filesystem, inner = resolve(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(inner, recursive=True)


def copy_folder(source: str, target: str) -> None:
    """Copy all files of a folder into another one, several at a time."""
    copy_files(source, target, [entry.name for entry in walk(source)])


def copy_files(source: str, target: str, names: Iterable[str]) -> None:
    """Copy some files of a folder into another one, several at a time."""
    with ThreadPoolExecutor(_COPIED_AT_ONCE) as pool:
        list(pool.map(lambda name: copy_file(join(source, name), join(target, name)), names))


def copy_file(source: str, target: str) -> None:
    """Copy a file in pieces; missing folders are created.

    Raises:
        DataError: If an object store refuses either path.
    """
    (before, inner), (after, place) = resolve(source), resolve(target)
    if isinstance(after, fs.LocalFileSystem):
        after.create_dir(place.rsplit("/", 1)[0], recursive=True)
    with (
        told(target),
        told(source),
        before.open_input_stream(inner, compression=None) as reading,
        after.open_output_stream(place, compression=None) as writing,
    ):
        while piece := reading.read(_PIECE_BYTES):
            writing.write(piece)


_COPIED_AT_ONCE = 8
_PIECE_BYTES = 1 << 24


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
