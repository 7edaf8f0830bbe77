"""Models on object stores: each node copies one into its own cache before it loads the weights.

A copy is known by the names, sizes and times of the model's files, so a model that is written anew
is copied anew, and one that two URIs lead to is copied once.
"""

import hashlib
import logging
import os
import time
from fnmatch import fnmatch
from pathlib import Path

from msrrec import storage
from msrrec.errors import ModelError
from msrrec.lock import locked

logger = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf", "*.onnx")
"""Patterns of the files of weights, which are most of a model's bytes."""


def cache_folder() -> Path:
    """The folder of this user's copies of models on this machine.

    ``XDG_CACHE_HOME`` moves the cache, which is ``~/.cache`` without it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "msrrec" / "models"


def list_model(place: str) -> list[storage.Entry]:
    """The files directly in a model's folder on an object store, sorted by name.

    Raises:
        ModelError: If there are none.
        DataError: If the store refuses or does not answer.
    """
    found = [entry for entry in storage.walk(place) if "/" not in entry.name]
    if not found:
        raise ModelError(f"{place}: holds no files; expected a model's folder; see whether it is")
    return found


def hash_listing(entries: list[storage.Entry]) -> str:
    """A hash (16 hexadecimal digits) of names, sizes and times of files."""
    lines = [f"{entry.name} {entry.size} {entry.modified_ns}" for entry in entries]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def fetch(place: str, *, weights: bool = True) -> str:
    """The folder on this machine for a model's folder: a copy of one at a URI, else itself.

    Processes of one machine copy a model once; the others wait for the first.

    Args:
        place: Folder, hub name or URI.
        weights: Whether the weights are needed, or settings and tokenizer alone.

    Raises:
        ModelError: If there are no files at the URI.
        DataError: If the store refuses or does not answer.
    """
    if not storage.is_uri(place):
        return place
    entries = list_model(place)
    if not weights:
        entries = [entry for entry in entries if not is_weights(entry.name)]
    folder = cache_folder() / f"uri-{hash_listing(entries)}"
    if folder.is_dir():  # it was renamed when it was whole
        return str(folder)
    with locked(str(folder), waits=True):
        if not folder.is_dir():
            _copy(place, entries, folder)
    return str(folder)


def is_weights(name: str) -> bool:
    """Whether a file of a model holds weights."""
    return any(fnmatch(name, pattern) for pattern in WEIGHTS)


def _copy(place: str, entries: list[storage.Entry], folder: Path) -> None:
    begin, size = time.monotonic(), sum(entry.size for entry in entries)
    logger.info("%s: copying %.1f MB into %s", place, size / 1e6, folder)
    with storage.atomic_folder(str(folder)) as aside:
        storage.copy_files(place, aside, [entry.name for entry in entries])
    logger.info("%s: copied in %.0f s", place, time.monotonic() - begin)
