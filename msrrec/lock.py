"""A lock that lets only one process at a time write an output folder."""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from msrrec import storage
from msrrec.errors import DataError

logger = logging.getLogger(__name__)

_SUFFIX = ".lock"
RENEWED_EVERY_S = 5.0
"""Seconds between the renewals of a lease."""
LAPSES_AFTER_S = 30.0
"""Seconds without a renewal after which a lease counts as that of a dead process."""
POLL_S = 1.0
"""Seconds between two looks at another process's lease."""
_SETTLE_S = 0.2


@contextlib.contextmanager
def locked(out: str, *, waits: bool = False) -> Iterator[None]:
    """Lock an output folder for this process until the block ends or the process dies.

    The lock is a file beside the folder, as the folder itself is replaced as a whole. Object stores
    have no locks; there it is a lease, an object that is renewed while the block runs. Who finds
    another's lease watches it: one that is renewed is refused, one that is not lapses. Two
    processes that begin within a fraction of a second may both get a lease, as pyarrow can't write
    on the condition that nobody else has.

    Args:
        out: The folder.
        waits: Whether to wait for another process that holds the lock.

    Raises:
        DataError: If another process holds the lock, unless ``waits``.
    """
    if storage.is_object_store(out):
        with _leased(out, waits):
            yield
        return
    path = os.path.realpath(storage.resolve(out)[1]) + _SUFFIX  # one for all spellings of a folder
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
            raise _refusal(out, holder) from None
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


def _refusal(out: str, holder: str) -> DataError:
    return DataError(f"{out}: {holder} is writing there; wait for it, or choose another --out")


@dataclass(frozen=True)
class _Lease:
    """What the lease of one process says; ``renewals`` counts up while the process lives."""

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def describe(self, renewals: int) -> dict[str, object]:
        return {**vars(self), "renewals": renewals}


@contextlib.contextmanager
def _leased(out: str, waits: bool) -> Iterator[None]:
    path, lease, ended = storage.beside(out, _SUFFIX), _Lease(), threading.Event()
    while True:
        _await_lapse(path, out, waits)
        storage.write_json(path, lease.describe(0))
        time.sleep(_SETTLE_S)  # so that of two that begin at once the first sees the second
        if _read(path).get("token") == lease.token:
            break
    renewing = threading.Thread(target=_renew, args=(path, lease, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if _read(path).get("token") == lease.token:
            storage.delete_file(path)


def _await_lapse(path: str, out: str, waits: bool) -> None:
    """Return when nobody holds the lease, or its holder is seen to be dead."""
    found, begin = _read(path), time.monotonic()
    while found and not _is_dead_here(found):
        if time.monotonic() - begin > LAPSES_AFTER_S:
            return
        time.sleep(POLL_S)
        now = _read(path)
        if now != found:
            if now and not waits:
                raise _refusal(out, f"process {now.get('pid')} on {now.get('host')}")
            begin = time.monotonic()
        found = now


def _is_dead_here(lease: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer runs."""
    if lease.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(lease["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _read(path: str) -> dict[str, Any]:
    """The lease at a path; empty if there is none."""
    try:
        return storage.read_object(path) if storage.exists(path) else {}
    except DataError:
        if storage.exists(path):
            raise
        return {}  # deleted after it was seen


def _renew(path: str, lease: _Lease, ended: threading.Event) -> None:
    renewals = 0
    while not ended.wait(RENEWED_EVERY_S):
        renewals += 1
        try:
            if _read(path).get("token") not in (lease.token, None):
                logger.error("%s: another process has taken the lease; stop one of them", path)
                return
            storage.write_json(path, lease.describe(renewals))
        except DataError as error:  # the next renewal may succeed
            logger.warning("%s", error)
