"""Columns of Parquet files are text where it is sure what they mean, else one sentence."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msrrec.data.columns import Column, ColumnChoice
from msrrec.data.parquet import read_parquet
from msrrec.errors import DataError

CHOICE = ColumnChoice((Column("x", "what is read"),), {}, "")


def read(folder: Path, values: pa.Array) -> list[str | None]:
    path = str(folder / "a.parquet")
    pq.write_table(pa.table({"y": [0] * len(values), "x": values}), path)
    found, frame = read_parquet(path, CHOICE)
    assert found == ["y", "x"]
    return frame["x"].to_list()


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array(["a", None]), ["a", None]),
        (pa.array([1, None]), ["1", None]),
        (pa.array([2**63 + 1], pa.uint64()), ["9223372036854775809"]),
        (pa.array([1.0, None, float("nan")]), ["1", None, None]),
        (pa.array([1.0, 2.5]), ["1.0", "2.5"]),
        (pa.array([7.0], pa.float32()), ["7"]),
        (pa.array([b"abc"]), ["abc"]),
        (pa.array([b"abcd"], pa.binary(4)), ["abcd"]),
        (pa.array([Decimal("12.00"), Decimal("1.50")]), ["12", "1.5"]),
        (
            pa.array([bytes(range(16))], pa.uuid()),
            ["00010203-0405-0607-0809-0a0b0c0d0e0f"],
        ),
        (pa.array([Decimal("120")]), ["120"]),
        (pa.array([date(2024, 8, 25)]), ["2024-08-25"]),
        (pa.array([datetime(2024, 8, 25)]), ["2024-08-25T00:00:00.000000000"]),
        (
            pa.array([datetime(2024, 8, 25)], pa.timestamp("ms", "Europe/Berlin")),
            ["2024-08-25T00:00:00.000000000Z"],
        ),
        (pa.array(["a"]).dictionary_encode(), ["a"]),
        (pa.array([[], None, ["a"]]), ["[]", None, '["a"]']),
        (pa.array([{"id": 18, "name": "Drama"}]), ['{"id": 18, "name": "Drama"}']),
        (pa.array([[date(2024, 8, 25)]]), ['["2024-08-25"]']),
        (pa.array([[Decimal("1.50")]]), ['["1.50"]']),
        (pa.array([[b"abc", None]]), ['["abc", null]']),
    ],
)
def test_what_is_sure_is_read(tmp_path: Path, values: pa.Array, texts: list[str | None]) -> None:
    assert read(tmp_path, values) == texts


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pa.array([b"\xff\xfe"]), "binary"),
        (pa.array([bytes(range(240, 256))], pa.binary(16)), "fixed_size_binary"),
        (pa.array([[b"\xff"]]), "binary"),
        (pa.array([timedelta(1)]), "duration"),
        (pa.array([[timedelta(1)]]), "duration"),
        (pa.array([time(1)]), "time64"),
        (pa.array([1.7e9], pa.float32()), "can't tell whole numbers above 16777216 apart"),
        (pa.array([2.0**60]), "can't tell whole numbers above 9007199254740992 apart"),
    ],
)
def test_what_is_not_sure_is_one_sentence(tmp_path: Path, values: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"a.parquet: column 'x' of type .*{words}") as caught:
        read(tmp_path, values)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\x02\0\0\0")
    broken = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff\xfe"))
    with pytest.raises(DataError, match="column 'x' of type string can't be read as text"):
        read(tmp_path, broken)


def test_a_column_twice_is_refused_if_it_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table([[1], [2], [3]], names=["x", "x", "y"]), path)
    with pytest.raises(DataError, match="has 2 columns 'x'; expected one"):
        read_parquet(path, CHOICE)
    pq.write_table(pa.table([[1], [2], [3]], names=["y", "y", "x"]), path)
    assert read_parquet(path, CHOICE)[1]["x"].to_list() == ["3"]
