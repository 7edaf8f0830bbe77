"""The README's layout lists what is there, and its commands exist."""

import re
from pathlib import Path

from msrrec.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_path_of_the_layout_exists() -> None:
    layout = README.split("## Layout")[1].split("##")[0]
    names = re.findall(r"^ {4}( *)([\w.]+/?)", layout, re.MULTILINE)
    assert len(names) > 15
    for indent, name in names:
        assert (ROOT / ("msrrec" if indent else "") / name).exists(), name


def test_every_package_of_the_library_is_in_the_layout() -> None:
    layout = README.split("## Layout")[1].split("##")[0]
    for path in (ROOT / "msrrec").iterdir():
        if (path / "__init__.py").is_file():
            assert f"{path.name}/" in layout, path.name


def test_every_command_of_the_readme_exists() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"^ {4}msrrec (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= commands
