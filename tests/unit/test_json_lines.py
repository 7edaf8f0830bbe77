"""A value of JSON has one text, whichever parser reads its line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrrec.config import DataConfig
from msrrec.data.json_lines import parse_piece
from msrrec.data.loading import parse_part, read_file
from msrrec.data.sources import make_source
from msrrec.errors import DataError


def both(line: str) -> tuple[str | None, str | None]:
    """The text of key ``a``, by the fast parser, and by Python's, which blank lines call for."""
    fast = parse_piece("f", f"{line}\n".encode(), 1, ["a"])
    exact = parse_piece("f", f"{line}\n\n".encode(), 1, ["a"])
    return fast["a"][0], exact["a"][0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ("1e5", "100000"),
        ("1E22", "1" + "0" * 22),
        ("-0.0", "-0"),
        ("0.1", "0.1"),
        ("1e-7", "0.0000001"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("true", "true"),
        ("null", None),
        ("NaN", None),
        ('"1.0"', "1.0"),
        ('"a\\\\b"', "a\\b"),
        ('"Lamp \\ud83d"', "Lamp \ufffd"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('["a\\\\b", "\\ud83d", "c\\"d"]', '["a\\\\b", "\ufffd", "c\\"d"]'),
        ('{"x": ["y"]}', '{"x": ["y"]}'),
        ("[]", "[]"),
    ],
)
def test_a_value_has_one_text(value: str, text: str | None) -> None:
    assert both(f'{{"a": {value}}}') == (text, text)


def test_of_a_key_twice_in_one_line_the_first_value_is_read() -> None:
    assert both('{"a": 1, "a": 2}') == ("1", "1")
    assert both('{"b": 0, "a": {"x": 1, "x": 2}}') == ('{"x": 1}', '{"x": 1}')


def test_brackets_without_end_are_one_sentence() -> None:
    with pytest.raises(DataError, match="f:1: not JSON"):
        parse_piece("f", b'{"a": ' + b"[" * 200_000 + b"\n\n", 1, ["a"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, derandomize=True)
@given(JSON, st.booleans())
def test_any_value_has_one_text(value: object, ascii_only: bool) -> None:
    fast, exact = both(json.dumps({"a": value}, ensure_ascii=ascii_only))
    assert fast == exact


def test_an_item_with_half_a_surrogate_pair_is_read_with_a_replacement(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    fields = {"title": "Lamp", "description": "Cut", "brand": "Oak", "categories": ["Home", "Den"]}
    half = json.dumps(
        {k: [*v, "X\ud83d"] if k == "categories" else v + "\ud83d" for k, v in fields.items()}
        | {"item_id": "i1"}
    )
    for source, line in (("table", half), ("amazon", half.replace("item_id", "asin"))):
        path.write_text(line + "\n")
        reader = make_source(source, DataConfig())
        (item,) = parse_part(reader, reader.read_records(str(path), None)).to_pylist()
        assert item["title"] == "Lamp\ufffd"
        assert item["description"] == "Cut\ufffd"
        assert item["brand"] == "Oak\ufffd"
        assert item["categories"] == ["Home", "Den", "X\ufffd"]


def test_interactions_with_a_blank_line_have_the_same_users(tmp_path: Path) -> None:
    line = '{"user_id": 1.0, "item_id": 1e5, "timestamp": 1400000000}\n'
    for content in (line, line + "\n", "\n" + line):
        path = tmp_path / "e.jsonl"
        path.write_text(content)
        table = read_file(make_source("table", DataConfig()), str(path))
        assert table["user_id"].to_pylist() == ["1"]
        assert table["item_id"].to_pylist() == ["100000"]
