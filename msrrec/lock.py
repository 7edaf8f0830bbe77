"""A lock that lets only one process at a time write an output folder."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from msrrec.errors import DataError

_SUFFIX = ".lock"


@contextlib.contextmanager
def locked(out: str, *, waits: bool = False) -> Iterator[None]:
    """Lock an output folder for this process until the block ends or the process dies.

    The lock is a file beside the folder, as the folder itself is replaced as a whole. Object stores
    have no such locks, so a URI is not locked.

    Args:
        out: The folder.
        waits: Whether to wait for another process that holds the lock.

    Raises:
        DataError: If another process holds the lock, unless ``waits``.
    """
    if "://" in out:
        yield
        return
    path = os.path.realpath(out) + _SUFFIX  # one lock for all spellings of a folder
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle = _acquire(path, out, waits)
    try:
        yield
    finally:
        os.unlink(path)
        os.close(handle)


def _acquire(path: str, out: str, waits: bool) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise DataError(
                f"{out}: {holder} is writing there; wait for it, or choose another --out"
            ) from None
        if _is_same_file(handle, path):
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return handle
        os.close(handle)  # its last holder has just removed this file, so lock its successor


def _is_same_file(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
