"""The glossary's retired names stay retired, and its table can be read."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"


@dataclass(frozen=True)
class Retired:
    """A name, what to say instead, and the folder that must not have it."""

    name: str
    instead: str
    folder: str


def retired_names() -> list[Retired]:
    """The rows of the glossary's last table, one for each name and folder."""
    table = GLOSSARY.read_text().split("## Retired names")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    return [
        Retired(name, instead, folder.strip())
        for names, instead, folders in rows
        for name in re.findall(r"`(\w+)`", names)
        for folder in folders.split(",")
    ]


def python_identifiers(source: str) -> set[str]:
    """Every name that code defines, imports, reads or takes as an argument; strings don't count."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "name", "arg", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found |= set(value.split("."))
    return found


def document_identifiers(text: str) -> set[str]:
    """Every word within backticks or a block of code."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return {word for part in code for word in re.findall(r"\w+", part)}


def iter_identifiers(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, python_identifiers(path.read_text())
    for path in sorted(folder.rglob("*.md")):
        if path != GLOSSARY:
            yield path, document_identifiers(path.read_text())


@pytest.mark.parametrize("folder", sorted({row.folder for row in retired_names()}))
def test_no_retired_name_comes_back(folder: str) -> None:
    assert (ROOT / folder).is_dir(), f"the glossary names no folder: {folder}"
    instead = {row.name: row.instead for row in retired_names() if row.folder == folder}
    for path, identifiers in iter_identifiers(ROOT / folder):
        for name in sorted(identifiers & instead.keys()):
            pytest.fail(f"{path.relative_to(ROOT)}: {name} is retired; say {instead[name]}")


def test_the_names_to_say_instead_exist() -> None:
    known: set[str] = set()
    for folder in ("msrrec", "serve"):
        for _, identifiers in iter_identifiers(ROOT / folder):
            known |= identifiers
    for row in retired_names():
        for name in re.findall(r"`([A-Za-z_]\w*)`", row.instead):
            assert name in known, f"{row.name}: nothing is called {name}"


def test_identifiers_are_told_from_words() -> None:
    code = '"""A Gate."""\nfrom a.b import C as D\ndef f(gate): return x.hire()\n'
    assert {"C", "D", "f", "gate", "x", "hire"} <= python_identifiers(code)
    assert "Gate" not in python_identifiers(code)
    assert document_identifiers("The Crew, `Crew.hire`.\n```\nGate()\n```") == {
        *("Crew", "hire", "Gate")
    }
