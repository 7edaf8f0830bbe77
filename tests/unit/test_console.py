"""What commands show of their settings."""

import pytest
from rich.text import Text

from msrrec import console


def test_brackets_of_a_description_are_shown_and_not_taken_for_markup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [("teacher.omit", ["top_p"], "Left out, such as [temperature].")]
    monkeypatch.setattr(console, "iter_settings", lambda *_: found)
    shown = Text.from_markup(console.settings_help("teacher")).plain
    assert 'teacher.omit=["top_p"]  Left out, such as [temperature].' in shown
