"""The README stays short, its links lead somewhere, and the layout in docs/ lists what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
LAYOUT = ARCHITECTURE.split("## Layout")[1].split("##")[0]


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_to_one(name: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text())
    for target in targets:
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_every_path_of_the_layout_exists() -> None:
    names = re.findall(r"^ {4}( *)([\w.]+/?)", LAYOUT, re.MULTILINE)
    assert len(names) > 15
    for indent, name in names:
        assert (ROOT / ("msrrec" if indent else "") / name).exists(), name


def test_every_package_of_the_library_is_in_the_layout() -> None:
    for path in (ROOT / "msrrec").iterdir():
        if (path / "__init__.py").is_file():
            assert f"{path.name}/" in LAYOUT, path.name


def test_the_order_of_the_rooms_is_the_import_contract() -> None:
    contract = (ROOT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    layers = [line.replace("msrrec.", "") for line in re.findall(r'"([^"]+)"', contract)]
    shown = ARCHITECTURE.split("## Who may import whom")[1].split("##")[0]
    assert re.findall(r"^ {4}(\S.*)$", shown, re.MULTILINE) == [n for n in layers if n[:2] != "__"]
