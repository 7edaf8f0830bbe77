"""Interactions of files: every row is kept, or dropped for a named reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from msrrec.config import DataConfig
from msrrec.data.events import Loaded
from msrrec.data.loading import load_events
from msrrec.data.sources import make_source
from msrrec.errors import DataError

HEADER = "user_id,item_id,timestamp\n"


def load(folder: Path, files: dict[str, str | bytes], **settings: Any) -> Loaded:
    """Interactions of files in a folder of their own, read as a table."""
    place = folder / "events"
    place.mkdir(parents=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (place / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (folder / "items.csv").write_text("item_id,title\ni1,A\n")
    source = make_source("table", DataConfig(**settings))
    return load_events(source, source.find(str(place), str(folder / "items.csv")))


def rows(loaded: Loaded) -> list[tuple[str, str, int]]:
    events = loaded.events
    users = [events.user_ids[int(code)].as_py() for code in events.users]
    items = [events.item_ids[int(code)].as_py() for code in events.items]
    return list(zip(users, items, events.timestamps.tolist(), strict=True))


@pytest.mark.parametrize(
    "blank", ["", " ", "nan", "None", "NULL", "\\N", "NA", "#N/A", "(null)", "none", "Null"]
)
def test_rows_without_a_field_are_an_error_or_dropped_and_counted(
    tmp_path: Path, blank: str
) -> None:
    text = HEADER + f"a,i1,1\n{blank},i1,2\na,{blank},3\na,i2,{blank}\n{blank},{blank},4\nb,i1,5\n"
    with pytest.raises(DataError, match=r"e.csv: row 2: has no user_id; .*missing_fields=drop"):
        load(tmp_path / "strict", {"e.csv": text})
    loaded = load(tmp_path / "drop", {"e.csv": text}, missing_fields="drop")
    assert rows(loaded) == [("a", "i1", 1), ("b", "i1", 5)]
    assert loaded.num_rows == 6
    assert loaded.dropped == {"missing_user": 2, "missing_item": 1, "missing_time": 1}


def test_rows_of_one_order_share_the_user_and_the_time(tmp_path: Path) -> None:
    text = (
        "Name,user_id,item_id,timestamp\n#2,,i1,\n#2,b,i2,20\n#1,a,i1,10\n#1,,i3,\n,,i4,\n#3,,i1,\n"
    )
    loaded = load(tmp_path, {"e.csv": text}, columns={"order_id": "Name"}, missing_fields="drop")
    assert rows(loaded) == [("b", "i1", 20), ("b", "i2", 20), ("a", "i1", 10), ("a", "i3", 10)]
    assert loaded.dropped == {"missing_user": 2}


@pytest.mark.parametrize("names", [("e.csv",), ("a.csv", "b.csv.gz"), ("a.csv", "b.jsonl")])
def test_seconds_beside_milliseconds_are_refused_with_a_row_of_each(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    seconds, milliseconds = "a,i1,1400000000\n", "a,i2,1400000001000\n"
    files: dict[str, str | bytes]
    if len(names) == 1:
        files = {"e.csv": HEADER + seconds + milliseconds}
    elif names[1].endswith("jsonl"):
        line = {"user_id": "a", "item_id": "i2", "timestamp": 1400000001000}
        files = {"a.csv": HEADER + seconds, "b.jsonl": json.dumps(line) + "\n"}
    else:
        files = {"a.csv": HEADER + seconds, "b.csv.gz": HEADER + milliseconds}
    with pytest.raises(DataError) as caught:
        load(tmp_path, files)
    message = str(caught.value)
    for words in ("1400000000 is in seconds", "1400000001000 in milliseconds", *names):
        assert words in message, message
    assert "\n" not in message


@pytest.mark.parametrize("names", [("e.csv",), ("a.csv", "b.csv")])
def test_times_with_a_zone_beside_times_without_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with_zone, without = "a,i1,2024-01-01 10:00:00+02:00\n", "a,i2,2024-01-01 10:00:00\n"
    bodies = [with_zone + without] if len(names) == 1 else [with_zone, without]
    files: dict[str, str | bytes] = {
        name: HEADER + body for name, body in zip(names, bodies, strict=True)
    }
    with pytest.raises(DataError, match="expected a zone in all rows or in none"):
        load(tmp_path, files)


@pytest.mark.parametrize(
    "text", ["9999-12-31", "9999-12-31T00:00:00Z", "99991231T000000", "1600-01-01"]
)
def test_dates_that_stand_for_never_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=rf"row 2: timestamp '{text}' .* beyond the year 2262"):
        load(tmp_path, {"e.csv": HEADER + f"a,i1,2024-01-01\na,i2,{text}\n"})


def test_numbers_that_are_dates_are_refused_with_their_row_and_read_with_their_format(
    tmp_path: Path,
) -> None:
    text = HEADER + "a,i1,20230101\na,i2,20240825\n"
    with pytest.raises(DataError, match=r"e.csv: row 2: timestamp 20240825 .*_format=%Y%m%d$"):
        load(tmp_path / "bare", {"e.csv": text})
    loaded = load(tmp_path / "set", {"e.csv": text}, timestamp_format="%Y%m%d")
    assert loaded.describe_times()["last"] == "2024-08-25T00:00:00Z"


def test_the_files_of_a_folder_may_differ_in_resolution(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.csv": HEADER + "a,i1,1400000001\na,i2,1400000000\n",
        "b.csv": HEADER + "a,i3,2014-05-13T16:53:20.5Z\n",
    }
    loaded = load(tmp_path, files)
    ordered = sorted(rows(loaded), key=lambda row: row[2])
    assert [item for _, item, _ in ordered] == ["i2", "i3", "i1"]
    assert loaded.describe_times() == {
        "read_as": "seconds and ISO 8601 with a zone",
        "first": "2014-05-13T16:53:20Z",
        "last": "2014-05-13T16:53:21Z",
    }


def test_a_time_that_its_pattern_does_not_fit_is_named_with_the_pattern(tmp_path: Path) -> None:
    text = HEADER + "a,i1,25.08.2024\na,i2,2024-08-25\n"
    with pytest.raises(DataError, match=r"row 2: timestamp '2024-08-25' is not .*'%d.%m.%Y'"):
        load(tmp_path, {"e.csv": text}, timestamp_format="%d.%m.%Y")


def test_users_that_differ_by_case_and_spaces_are_one_where_that_is_set(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"e.csv": HEADER + "Ann@X.de ,i1,1\nann@x.de,i2,2\nbob,i1,3\n"})
    assert loaded.events.count_folded() == 1
    folded = loaded.events.fold_users()
    assert folded.user_ids.to_pylist() == ["ann@x.de", "bob"]
    assert folded.users.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"user_id": "a", "item_id": "i1", "timestamp": 1, "price": NaN}\n',
        b'\n{"user_id": "a", "item_id": "i1", "timestamp": 1}\r\n\r\n',
        '{"user_id": "a", "item_id": "i1", "timestamp": 1}\n'.encode("utf-16"),
        b'{"user_id": "a", "item_id": "i1", "timestamp": 1, "tags": ["x", {"y": null}]}',
    ],
)
def test_json_lines_are_read_with_marks_blank_lines_and_nan(tmp_path: Path, content: bytes) -> None:
    assert rows(load(tmp_path, {"e.jsonl": content})) == [("a", "i1", 1)]


def test_a_line_of_two_objects_is_refused(tmp_path: Path) -> None:
    line = '{"user_id": "a", "item_id": "i1", "timestamp": 1}'
    with pytest.raises(DataError, match=r"e.jsonl:1: not JSON"):
        load(tmp_path, {"e.jsonl": f"{line}{line}\n"})


def test_moments_of_parquet_are_times(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.mkdir()
    frame = pl.DataFrame({"user_id": ["a", "b"], "item_id": [1, 2], "timestamp": ["1970", "2024"]})
    moments = pl.col("timestamp").str.to_datetime("%Y", time_zone="Europe/Berlin")
    frame.with_columns(moments).write_parquet(path / "e.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n1,A\n")
    source = make_source("table", DataConfig())
    loaded = load_events(source, source.find(str(path), str(tmp_path / "items.csv")))
    assert loaded.describe_times()["first"] == "1969-12-31T23:00:00Z"
    assert rows(loaded)[0][:2] == ("a", "1")
