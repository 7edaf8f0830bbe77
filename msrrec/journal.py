"""An append-only folder of files, so that paid results survive a killed run.

Every writer has its own files. When ``append`` or ``add_file`` returns, the data is on disk. A
killed writer may leave its last line incomplete, so readers skip a line that they can't read.

Object stores can't append: there each batch of lines is an object. A batch holds what came within
a second, and ``compact`` makes one object of many.
"""

import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence

from pyarrow import fs

from msrrec import storage

BATCH_S = 1.0
"""Seconds between two objects of one writer on an object store."""
_COMPACTED_BYTES = 32 << 20
_TO = "~"
"""Stands in a compacted file's name between the names of the first and the last of its files."""
_TIMED = re.compile(r"\d+\.\d{3}-")
"""How the names of files of lines begin, so that their order is that of their writers."""


class Journal:
    """A folder with one writer's own files, and a reader of all writers' files.

    Args:
        folder: Local path or URI; ``add_file`` creates it, ``append`` expects it to exist.
        suffix: Ending of the journal's file names; other files are ignored.
    """

    def __init__(self, folder: str, suffix: str = ".jsonl") -> None:
        self._folder, self._suffix = folder, suffix
        self._name = f"{time.time():.3f}-{uuid.uuid4().hex[:8]}"
        self._num_batches = 0

    def append(self, lines: bytes) -> None:
        """Add whole lines to this writer's file; on an error none of them is written.

        Raises:
            OSError: If the storage refuses, a full disk for example.
        """
        local = self._local_folder()
        if local is None:
            name = f"{self._name}-{self._num_batches:06d}{self._suffix}"
            storage.write_bytes(storage.join(self._folder, name), lines)
            self._num_batches += 1
            return
        path = os.path.join(local, self._name + self._suffix)
        is_new = not os.path.exists(path)
        _append(path, lines)
        if is_new:
            _sync_folder(local)

    def add_file(self, content: bytes, name: str | None = None) -> None:
        """Add a separate file, either complete or not at all; without a name under a random one.

        Raises:
            OSError: If the storage refuses.
        """
        name, local = (name or uuid.uuid4().hex) + self._suffix, self._local_folder()
        if local is None:
            storage.write_bytes(storage.join(self._folder, name), content)
            return
        os.makedirs(local, exist_ok=True)
        aside = os.path.join(local, name + ".tmp")
        _append(aside, content)
        os.replace(aside, os.path.join(local, name))
        _sync_folder(local)

    @property
    def batch_s(self) -> float:
        """Seconds that should lie between two calls of ``append``: 0 where it is cheap."""
        return 0.0 if self._local_folder() else BATCH_S

    def list_files(self) -> list[str]:
        """Paths of all writers' files, sorted by name; empty if the folder does not exist.

        Files whose lines are in a compacted one too, as its writer was killed before it had deleted
        them, are left out.
        """
        return [storage.join(self._folder, name) for name in _latest(self._names())]

    def compact(self) -> int:
        """Join small objects of lines, which are read one by one, into few; the number joined.

        Only for a folder that nobody writes to. The order of all lines stays. Local files are
        left as they are, as each writer has one, and so are files that ``add_file`` made.
        """
        if self._local_folder():
            return 0
        joined = 0
        timed = [name for name in _latest(self._names()) if _TIMED.match(name)]
        for group in group_small(self._folder, timed):
            first, last = _span(group[0])[0], _span(group[-1])[1]
            paths = [storage.join(self._folder, name) for name in group]
            lines = b"".join(line + b"\n" for path in paths for line in read_lines(path))
            storage.write_bytes(
                storage.join(self._folder, f"{first}{_TO}{last}{self._suffix}"), lines
            )
            joined += len(group)
        kept = set(_latest(self._names()))
        for name in self._names():
            if name not in kept:
                storage.delete_file(storage.join(self._folder, name))
        return joined

    def _names(self) -> list[str]:
        return [name for name in storage.list_files(self._folder) if name.endswith(self._suffix)]

    def iter_lines(self) -> Iterator[bytes]:
        """The lines of all files without line ends; the last line of a file may be incomplete."""
        for path in self.list_files():
            yield from read_lines(path)

    def _local_folder(self) -> str | None:
        """The folder as a local path; None on an object store."""
        filesystem, inner = storage.resolve(self._folder)
        return inner if isinstance(filesystem, fs.LocalFileSystem) else None


def _span(name: str) -> tuple[str, str]:
    """The first and the last of the files whose lines a file holds; of most files, itself."""
    stem = name.rpartition(".")[0]
    first, _, last = stem.partition(_TO)
    return first, last or first


def _latest(names: Sequence[str]) -> list[str]:
    """The names without those whose lines are in another file too."""
    spans = {name: _span(name) for name in names}
    wide = [(name, span) for name, span in spans.items() if _TO in name]
    return [
        name
        for name, (first, last) in spans.items()
        if not _TIMED.match(name)
        or not any(other != name and begin <= first and last <= end for other, (begin, end) in wide)
    ]


def group_small(folder: str, names: Sequence[str]) -> Iterator[list[str]]:
    """Neighbours of at most ``_COMPACTED_BYTES`` together, at least two in each group."""
    sizes = {entry.name: entry.size for entry in storage.walk(folder)}
    group: list[str] = []
    for name in names:
        if group and sum(sizes[other] for other in (*group, name)) > _COMPACTED_BYTES:
            if len(group) > 1:
                yield group
            group = []
        group.append(name)
    if len(group) > 1:
        yield group


def read_lines(path: str) -> list[bytes]:
    """The non-empty lines of one file without line ends; the last may be incomplete."""
    return [line for line in storage.read_bytes(path).split(b"\n") if line]


def _append(path: str, content: bytes) -> None:
    """Append to a file and sync it to disk; on an error the file keeps its old length.

    A partial line would damage the line written after it.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        try:
            written = 0
            while written < len(content):
                written += os.write(file, content[written:])
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def _sync_folder(folder: str) -> None:
    """Sync a folder's list of file names to disk, not only the files' contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
