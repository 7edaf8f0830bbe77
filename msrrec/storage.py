"""Files on any pyarrow filesystem: atomic folders, run records, Parquet and JSON.

A path is a ``str``: local, or a URI such as ``s3://bucket/folder?scheme=http``, whose options stay
at its end. This module alone takes paths apart and puts them together. A stage writes into a
temporary folder and renames it at the end, so a killed run never leaves a partial result that looks
complete.
"""

import contextlib
import fnmatch
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from msrrec.errors import DataError, first_line, hide_credentials

RECORD = "run.json"
"""The run record that a finished stage leaves in its folder."""
MANIFEST = "manifest.json"
"""The file that marks a folder as a dataset and describes it."""


def is_uri(path: str) -> bool:
    """Whether a path is a URI and no path on this machine."""
    return "://" in path


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path, and the path on that filesystem.

    Names in a URI are taken as they are: ``%20`` stays ``%20``.

    Raises:
        DataError: If a URI is of an unknown kind or has unknown options, or its bucket's region
            can't be found.
    """
    if not is_uri(path):
        return fs.LocalFileSystem(), os.path.abspath(path)
    base, options = _split_options(path)
    scheme, _, rest = base.partition("://")
    authority, _, inner = rest.partition("/")
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with told(path):
        filesystem, root = _connect(scheme, authority, options, settings)
    return filesystem, "/".join([root.rstrip("/"), inner.strip("/")]) if inner.strip("/") else root


@lru_cache(64)
def _connect(
    scheme: str, authority: str, options: str, settings: tuple[tuple[str, str], ...]
) -> tuple[fs.FileSystem, str]:
    """The filesystem of a bucket, and the bucket's name there; ``settings`` are only a key."""
    if scheme == "s3" and "allow_delayed_open" not in options:
        options += ("&" if options else "?") + "allow_delayed_open=true"  # one PUT a small file
    filesystem, root = fs.FileSystem.from_uri(f"{scheme}://{authority}/{options}")
    return filesystem, str(root)


def shown(path: str) -> str:
    """A path as people and files may see it, without the credentials of a URI."""
    return hide_credentials(path)


def absolute(path: str) -> str:
    """A local path from the root, ``~`` expanded; a URI as it is."""
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def join(path: str, *parts: str) -> str:
    """A path inside a folder."""
    base, options = _split_options(path)
    return "/".join([base.rstrip("/"), *parts]) + options


def parent(path: str) -> str:
    """The folder that holds a file or folder; a bucket and the root are their own."""
    base, options = _split_options(path)
    if not is_uri(path):
        return os.path.dirname(base.rstrip("/") or "/") or "."
    scheme, _, rest = base.partition("://")
    authority, _, inner = rest.partition("/")
    above = inner.strip("/").rpartition("/")[0]
    return f"{scheme}://{authority}{'/' if above else ''}{above}{options}"


def base_name(path: str) -> str:
    """The last name of a path; of a bucket, the bucket's."""
    base, _ = _split_options(path)
    return base.rstrip("/").rpartition("/")[2].rpartition("@")[2]


def beside(path: str, suffix: str) -> str:
    """A path whose last name is longer by a suffix, such as ``out.journal`` beside ``out``."""
    base, options = _split_options(path)
    return base.rstrip("/") + suffix + options


def without_options(path: str) -> str:
    """A path without the options of a URI, for what looks at the end of a name."""
    return _split_options(path)[0]


def at(path: str, inner: str) -> str:
    """The path of a file of which a listing of the filesystem of ``path`` tells the inner path."""
    if not is_uri(path):
        return inner
    base, options = _split_options(path)
    scheme, _, rest = base.partition("://")
    _, root = resolve(f"{scheme}://{rest.partition('/')[0]}{options}")
    return join(f"{scheme}://{rest.partition('/')[0]}{options}", inner[len(root) :].strip("/"))


def _split_options(path: str) -> tuple[str, str]:
    """A URI without its options, and they with their question mark; a local path has none."""
    if not is_uri(path):
        return path, ""
    base, mark, options = path.partition("?")
    return base, mark + options


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Raise what an object store refuses as an error of one sentence.

    Errors of local files pass as they are.

    Raises:
        DataError: If the store at a URI refuses, does not answer, or lacks the bucket or file.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if not is_uri(path):
            raise
        raise DataError(f"{path}: {_explain(path, error)}") from error


def _explain(path: str, error: Exception) -> str:
    """What is wrong and what to do about it, from the words of Arrow's error."""
    text = first_line(error)
    bucket = path.partition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2]
    for signs, found in _REFUSALS:
        if any(sign in text for sign in signs):
            return found.format(bucket=bucket)
    if isinstance(error, FileNotFoundError):
        return "no such file or folder; see whether the path is right"
    return f"the object store refuses ({text}); see whether address, options and rights are right"


_REFUSALS = (
    (
        ("NO_SUCH_BUCKET", "Bucket '"),
        "there is no bucket {bucket!r}; create it, or name another",
    ),
    (
        ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "Forbidden", "403"),
        "the object store refuses these credentials; expected ones that may read and write bucket "
        "{bucket!r}, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
    ),
    (
        ("NETWORK_CONNECTION", "curlCode", "Could not connect", "UNAVAILABLE", "timed out"),
        "the object store does not answer; expected one there, or at AWS_ENDPOINT_URL or the "
        "option endpoint_override; see whether it runs and is reached from here",
    ),
    (
        ("query parameter", "filesystem type", "Cannot parse URI", "Expected a"),
        "no such URI; expected s3://bucket/folder or gs://bucket/folder, with the options that "
        "pyarrow knows",
    ),
)
"""Words of Arrow's errors, and the sentence for each of them."""


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
        table = pq.read_table(inner, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: lacks column {missing[0]!r}; expected {', '.join(schema.names)}")
    return table.select(schema.names).cast(schema)


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
