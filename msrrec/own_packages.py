"""The top-level packages that are installed beside this one, whatever else has their names."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parents[1]


def import_own(name: str) -> ModuleType:
    """A module of ``serve`` or ``jobs`` that belongs to this installation.

    The working directory may hold folders of those names, and comes first on Python's path under
    ``python -m`` and in Ray's workers. Where it does, the module's classes are sent to workers
    whole, so that these need not find it by its name.
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
