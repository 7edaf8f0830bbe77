"""What importing the library costs, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "vllm", "transformers")
EXTENDING = (  # whose classes are those of a heavy library, which imports them or is there already
    "msrrec/balancing.py",
    "msrrec/embedded/backbone/pretrain.py",
    "msrrec/engines/answer_processor.py",
    "msrrec/engines/engine_metrics.py",
)
LIGHT_MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "msrrec").rglob("*.py")
    if not {"training", "sequential", "language"} & set(path.parts)
    and path.name != "__main__.py"
    and str(path.relative_to(ROOT)) not in EXTENDING
)


def test_no_module_outside_training_loads_a_heavy_library() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT_MODULES!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = [h for h in {HEAVY!r} if h in sys.modules]\n"
        "    assert not loaded, (name, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "msrrec").rglob("*.py")), ids=str)
def test_the_library_imports_neither_jobs_nor_serve(path: Path) -> None:
    if path.name == "cli.py":
        return
    assert not imported_packages(path) & {"jobs", "serve"}


def test_jobs_and_serve_do_not_import_each_other() -> None:
    for path in (ROOT / "jobs").rglob("*.py"):
        assert "serve" not in imported_packages(path), path
    for path in (ROOT / "serve").rglob("*.py"):
        assert "jobs" not in imported_packages(path), path
