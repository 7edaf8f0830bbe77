from pathlib import Path

import pytest

from msrrec.errors import first_line, last_line

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("said", "first", "last"),
    [
        ("no such file", "no such file", "no such file"),
        ("\n  broken \n\nbecause of this\n", "broken", "because of this"),
        ("", "ValueError", "ValueError"),
        (" \n ", "ValueError", "ValueError"),
    ],
)
def test_an_error_is_told_in_one_line_and_never_in_none(said: str, first: str, last: str) -> None:
    assert first_line(ValueError(said)) == first
    assert last_line(ValueError(said)) == last


@pytest.mark.parametrize("room", ["msrrec", "serve", "jobs"])
def test_no_other_place_cuts_an_error_into_lines(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        if path.name != "errors.py":
            text = path.read_text()
            assert "str(error).splitlines" not in text, path
            assert 'str(error).partition("\\n")' not in text, path
