"""The files of a source at a path: a file, a folder or a pattern such as ``part-*.csv``."""

import fnmatch
import logging
from collections import Counter

from msrrec import storage
from msrrec.errors import DataError

logger = logging.getLogger(__name__)

DELIMITED = (".csv", ".tsv")
SUFFIXES = (*DELIMITED, ".json", ".jsonl", ".ndjson", ".parquet")
_HIDDEN = (".", "_")
"""Beginnings of names of files that programs leave beside data, such as ``_SUCCESS`` and
``._part-0.csv``."""


def suffix(path: str) -> str:
    """The ending of a file's name in lower case, without ``.gz``; empty for a name without one."""
    name = storage.base_name(path).lower().removesuffix(".gz")
    _, dot, ending = name.rpartition(".")
    return dot + ending if dot else ""


def find_files(path: str) -> list[str]:
    """The files matching a file name, a folder or a pattern (``part-*.csv``), sorted by name.

    Hidden files are skipped. A warning names what else a folder holds and is not read.

    Raises:
        DataError: If there are none.
    """
    folder, name = storage.parent(path), storage.base_name(path)
    if storage.is_file(path):
        return [path]
    if not storage.exists(path):
        if not any(sign in name for sign in "*?["):
            raise DataError(f"{path}: no such file or folder; expected the source's files there")
        names = fnmatch.filter(storage.list_files(folder), name)
        found = [n for n in names if name.startswith(_HIDDEN) or not n.startswith(_HIDDEN)]
        skipped = ""
    else:
        folder = path
        found, skipped = _look_into(path)
    if not found:
        but = f"; it holds {skipped}" if skipped else ""
        raise DataError(
            f"{path}: matches no file{but}; expected {', '.join(SUFFIXES)}, plain or .gz, directly "
            "in the folder"
        )
    if skipped:
        logger.warning("%s: reads %s files and leaves out %s", path, len(found), skipped)
    return [storage.join(folder, name) for name in sorted(found)]


def _look_into(folder: str) -> tuple[list[str], str]:
    """The names of the files to read in a folder, and a description of what else is there."""
    files, folders = (
        [name for name in names if not name.startswith(_HIDDEN)]
        for names in (storage.list_files(folder), storage.list_folders(folder))
    )
    found = [name for name in files if suffix(name) in SUFFIXES]
    others = [name for name in files if suffix(name) not in SUFFIXES]
    parts = []
    if others:
        endings = Counter(suffix(name) or "no ending" for name in others)
        counts = ", ".join(f"{count} of {ending}" for ending, count in sorted(endings.items()))
        parts.append(f"{len(others)} files ({counts}; such as {min(others)})")
    if folders:
        parts.append(f"{len(folders)} folders (such as {min(folders)})")
    return found, " and ".join(parts)
