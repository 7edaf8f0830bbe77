"""Imports of this project's ``serve`` and ``jobs``, even if other packages have those names."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parents[1]


def import_own(name: str) -> ModuleType:
    """A module of ``serve`` or ``jobs`` from this installation.

    The working directory may hold folders with these names, and it comes first on Python's path
    under ``python -m`` and in Ray's workers. In that case the module's classes are sent to workers
    by value, so that workers need not import it by name.
    """
    package = name.partition(".")[0]
    before = list(sys.path)
    sys.path.insert(0, str(_ROOT))
    try:
        module = importlib.import_module(name)
    finally:
        sys.path[:] = before
    if _is_shadowed(package):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[package])
    return module


def _is_shadowed(package: str) -> bool:
    here = Path.cwd()
    found = (here / package / "__init__.py", here / f"{package}.py")
    return here != _ROOT and any(path.exists() for path in found)
