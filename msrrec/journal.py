"""A folder of files that only grows, so that what was paid for survives a killed run.

Every writer has files of its own. What ``append`` or ``add_file`` was given is on the disk when it
returns. The last line that a killed writer appended may be torn, so readers pass over a line that
they can't read. An object store can't append: there each batch of lines is an object.
"""

import os
import time
import uuid
from collections.abc import Iterator

from pyarrow import fs

from msrrec import storage


class Journal:
    """One writer of a folder, and a reader of all that any writer has put there.

    Args:
        folder: Local or a URI; ``add_file`` makes it, ``append`` expects it.
        suffix: What the names of the journal's files end in; others are left alone.
    """

    def __init__(self, folder: str, suffix: str = ".jsonl") -> None:
        self._folder, self._suffix = folder, suffix
        self._name = f"{time.time():.3f}-{uuid.uuid4().hex[:8]}"
        self._num_batches = 0

    def append(self, lines: bytes) -> None:
        """Add whole lines to this writer's file; where that fails, none of them is there.

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

    def add_file(self, content: bytes) -> None:
        """Add a file of its own, whole or not there.

        Raises:
            OSError: If the storage refuses.
        """
        name, local = uuid.uuid4().hex + self._suffix, self._local_folder()
        if local is None:
            storage.write_bytes(storage.join(self._folder, name), content)
            return
        os.makedirs(local, exist_ok=True)
        aside = os.path.join(local, name + ".tmp")
        _append(aside, content)
        os.replace(aside, os.path.join(local, name))
        _sync_folder(local)

    def list_files(self) -> list[str]:
        """Paths of the files of all writers, sorted by name; none where there is no folder."""
        names = [name for name in storage.list_files(self._folder) if name.endswith(self._suffix)]
        return [storage.join(self._folder, name) for name in names]

    def iter_lines(self) -> Iterator[bytes]:
        """The lines of all files without their ends; the last of a file may be torn."""
        for path in self.list_files():
            yield from read_lines(path)

    def _local_folder(self) -> str | None:
        """The folder as the operating system knows it; None on an object store."""
        filesystem, inner = storage.resolve(self._folder)
        return inner if isinstance(filesystem, fs.LocalFileSystem) else None


def read_lines(path: str) -> list[bytes]:
    """The lines of one file without their ends, blank ones left out; the last may be torn."""
    return [line for line in storage.read_bytes(path).split(b"\n") if line]


def _append(path: str, content: bytes) -> None:
    """Append durably; where that fails, the file ends where it ended before.

    A part of a line would damage the line that is written after it.
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
    """Make the names of a folder's files durable, not only what the files hold."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
