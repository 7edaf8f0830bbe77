"""Measure the code itself: lengths of functions and files, untyped dicts, cycles of imports.

    python -m bench.house

prints two tables. A function is as long as its lines from ``def`` to its last; a file is as long as
its lines of code, without docstrings, comments and blank lines. ``tests/unit/test_house.py`` holds
the same figures to their limits.
"""

import ast
import functools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[1]
ROOMS = ("msrrec", "jobs", "serve", "bench", "tests")
LIBRARY = ("msrrec", "jobs", "serve")
"""Installed packages; the limits on import cycles and untyped dicts apply to them."""

UNTYPED = "dict[str, Any]"

Graph = Mapping[str, AbstractSet[str]]
"""The rooms that each room imports."""


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        name: Path of the file and name of the function, such as ``msrrec/cli.py:main``.
        num_lines: Number of lines from ``def`` to the last line.
    """

    name: str
    num_lines: int


@dataclass(frozen=True)
class SourceFile:
    """One file of Python.

    Attributes:
        path: Path from the repository's root, with forward slashes.
        num_lines: Number of all lines.
        num_code_lines: Number of lines that are neither docstring, comment nor blank.
        num_untyped: Number of occurrences of ``dict[str, Any]``.
        functions: All functions, including methods and inner functions.
        modules: Dotted names of its imports; ``from a import b`` gives ``a.b``.
    """

    path: str
    num_lines: int
    num_code_lines: int
    num_untyped: int
    functions: tuple[Function, ...]
    modules: frozenset[str]


def measure_file(path: str, text: str) -> SourceFile:
    """The measurements of one file, whose path in them is ``path``."""
    nodes = list(ast.walk(ast.parse(text)))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return SourceFile(
        path=path,
        num_lines=len(text.splitlines()),
        num_code_lines=len(code_lines(text, nodes)),
        num_untyped=sum(map(is_untyped, nodes)),
        functions=tuple(Function(f"{path}:{n.name}", len(_lines_of(n))) for n in functions),
        modules=frozenset(iter_imports(nodes)),
    )


@functools.cache
def measure_room(room: str) -> tuple[SourceFile, ...]:
    """Every file of a folder of the repository, in order of their paths."""
    paths = sorted((ROOT / room).rglob("*.py"))
    return tuple(measure_file(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in paths)


def code_lines(text: str, nodes: Sequence[ast.AST]) -> set[int]:
    """Line numbers (from 1) that contain more than docstrings and comments."""
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    found = {number for number, line in lines if line and not line.startswith("#")}
    for node in nodes:
        if isinstance(node, ast.JoinedStr) or _is_text(node):  # blank lines of a text count
            found |= _lines_of(node)
    for node in nodes:
        if isinstance(node, ast.Expr) and _is_text(node.value):  # docstrings, also of attributes
            found -= _lines_of(node)
    return found


def is_untyped(node: ast.AST) -> bool:
    """Whether an expression is ``dict[str, Any]``; the words in a string or comment are not."""
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        return False
    return node.value.id == "dict" and ast.unparse(node) == UNTYPED


def iter_imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def untyped_per_thousand(files: Sequence[SourceFile]) -> float:
    """Occurrences of ``dict[str, Any]`` per 1,000 lines of any kind."""
    return 1000 * sum(f.num_untyped for f in files) / max(1, sum(f.num_lines for f in files))


def import_graph(files: Sequence[SourceFile]) -> dict[str, set[str]]:
    """Which rooms import which: folders of the library, and files that lie in none.

    A file directly in ``msrrec`` is a room of its own, as ``msrrec.stage``.
    """
    rooms = {_room_of(_module_of(file.path)) for file in files}
    graph: dict[str, set[str]] = {room: set() for room in rooms}
    for file in files:
        own = _room_of(_module_of(file.path))
        graph[own] |= {_room_of(module) for module in file.modules} & rooms - {own}
    return graph


def find_cycles(graph: Graph) -> list[list[str]]:
    """Groups of rooms that all reach each other by imports; empty if imports are layered."""
    reached = {room: _reachable(graph, room) for room in graph}
    groups = {
        tuple(sorted({room, *(other for other in reached[room] if room in reached[other])}))
        for room in graph
        if room in reached[room]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: Graph, start: str) -> set[str]:
    """All rooms reachable from a room in at least one step."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        room = waiting.pop()
        if room not in found:
            found.add(room)
            waiting += graph[room]
    return found


def _module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _room_of(module: str) -> str:
    """The first two names of a module below ``msrrec``, else the first."""
    first, *rest = module.split(".")
    return ".".join([first, *rest[:1]]) if first == "msrrec" else first


def _lines_of(node: ast.stmt | ast.expr) -> set[int]:
    """Line numbers of a node; decorators of a function are not among them."""
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def describe_room(room: str, files: Sequence[SourceFile]) -> str:
    """One line of the first table."""
    functions = [function for file in files for function in file.functions]
    lengths = [function.num_lines for function in functions] or [0]
    longest = max(files, key=lambda file: file.num_code_lines)
    return (
        f"{room:8}{sum(f.num_lines for f in files):8,}{len(functions):11,}"
        f"{statistics.median(lengths):8.0f}{max(lengths):9}{sum(n > 60 for n in lengths):9}"
        f"{untyped_per_thousand(files):16.2f}{longest.num_code_lines:6}  {longest.path}"
    )


def main() -> None:
    """Print the tables."""
    measured = {room: measure_room(room) for room in ROOMS}
    print(
        f"{'':8}{'lines':>8}{'functions':>11}{'median':>8}{'longest':>9}{'over 60':>9}"
        f"{'untyped / 1,000':>16}{'file':>6}"
    )
    for room, files in measured.items():
        print(describe_room(room, files))
    library = [file for room in LIBRARY for file in measured[room]]
    cycles = find_cycles(import_graph(library))
    print(
        f"\n{UNTYPED} in 1,000 lines of {', '.join(LIBRARY)}: {untyped_per_thousand(library):.2f}"
    )
    print(f"cycles of imports among their folders: {len(cycles)}")
    for group in cycles:
        print(f"    {', '.join(group)}")


if __name__ == "__main__":
    main()
