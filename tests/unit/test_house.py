"""The code keeps its measures, and tests reach the library by public names alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import house

FOREIGN = {
    "os._exit",
    "model.config._attn_implementation",
    "coordinator._tick",
}
"""Private names of other projects, for which they have no public one."""


@pytest.mark.parametrize("room", house.ROOMS)
def test_no_function_is_over_60_lines_and_no_file_over_400_of_code(room: str) -> None:
    for file in house.measure_room(room):
        assert file.num_code_lines <= 400, f"{file.path}: split it by subject"
        for function in file.functions:
            assert function.num_lines <= 60, f"{function.name}: split it"


def test_the_library_has_next_to_no_dict_without_a_type() -> None:
    files = [file for room in house.LIBRARY for file in house.measure_room(room)]
    assert house.untyped_per_thousand(files) < 2


def test_folders_of_the_library_never_import_in_a_circle() -> None:
    files = [file for room in house.LIBRARY for file in house.measure_room(room)]
    assert house.find_cycles(house.import_graph(files)) == []


def private_names(text: str) -> Iterator[str]:
    """What a file reaches of others' private names: imported, read as attributes, or patched."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and is_patch(node.func):
            yield from (name for name in iter_texts(node.args[:2]) if is_private(name))


def is_private(name: str) -> bool:
    """Whether any part of a dotted name begins with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def is_patch(function: ast.expr) -> bool:
    """Whether a call puts something in the place of a name that it gets as text."""
    return isinstance(function, ast.Attribute) and function.attr in (
        *("setattr", "delattr", "patch", "object"),
    )


def iter_texts(arguments: list[ast.expr]) -> Iterator[str]:
    for node in arguments:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("folder", ["unit", "integration", "e2e", "support"])
def test_tests_touch_no_private_name(folder: str) -> None:
    for path in sorted((house.ROOT / "tests" / folder).glob("*.py")):
        for name in private_names(path.read_text(encoding="utf-8")):
            assert name in FOREIGN, f"{path.name}: {name} is private; use what is public"


def test_tests_share_what_stands_in_support_and_not_each_others() -> None:
    for file in house.measure_room("tests"):
        if file.path.startswith("tests/unit/"):
            for module in file.modules:
                assert not module.startswith("tests.unit"), f"{file.path}: move it to tests/support"


def test_private_names_are_found_however_they_are_reached() -> None:
    text = (
        "from a import _b, __version__\nself._c = x._d.e\nmonkeypatch.setattr(a, '_f', 1)\n"
        "monkeypatch.setattr('a._g.h', 1)\nmock.patch.object(a, '_i')\nprint('_j')\n"
    )
    assert set(private_names(text)) == {"_b", "x._d", "_f", "a._g.h", "_i"}


def test_lines_of_code_are_those_without_docstrings_comments_and_blanks() -> None:
    text = '''"""A module
of two lines."""

import os  # counts

A: dict[str, Any] = {}
"""What A is."""


def f(x):  # dict[str, Any] in words
    """What it does."""
    # why
    text = """one

    three"""

    return [
        x,
    ]
'''
    file = house.measure_file("a.py", text)
    # import, A, def, three lines of text, three of return
    assert (file.num_code_lines, file.num_untyped) == (9, 1)
    assert [(f.name, f.num_lines) for f in file.functions] == [("a.py:f", 10)]
    assert file.modules == {"os"}


def test_a_circle_of_folders_is_found_and_a_ladder_is_none() -> None:
    def imports(path: str, *modules: str) -> house.SourceFile:
        text = "".join(f"from {module} import x\n" for module in modules)
        return house.measure_file(path, text)

    ladder = [
        imports("msrrec/data/a.py", "msrrec.data.b", "msrrec.stage"),
        imports("msrrec/data/b.py"),
        imports("msrrec/stage.py", "msrrec.metrics.text"),
        imports("msrrec/metrics/text.py", "math"),
        imports("serve/app.py", "msrrec.data.a"),
    ]
    graph = house.import_graph(ladder)
    assert graph["msrrec.data"] == {"msrrec.stage"}
    assert graph["serve"] == {"msrrec.data"}
    assert house.find_cycles(graph) == []
    circle = [*ladder, imports("msrrec/metrics/judge.py", "msrrec.data.b")]
    found = house.find_cycles(house.import_graph(circle))
    assert found == [["msrrec.data", "msrrec.metrics", "msrrec.stage"]]


def test_the_page_of_measures_names_every_room(capsys: pytest.CaptureFixture[str]) -> None:
    house.main()
    shown = capsys.readouterr().out
    assert all(f"\n{room} " in f"\n{shown}" for room in house.ROOMS)
    assert "cycles of imports among their folders: 0" in shown


def test_the_measures_are_of_this_repository() -> None:
    assert Path(__file__).is_relative_to(house.ROOT)
    paths = [file.path for file in house.measure_room("tests")]
    assert "tests/unit/test_house.py" in paths
