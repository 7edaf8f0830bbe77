"""Atomic folders and files."""

from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import storage
from msrrec.errors import DataError

SCHEMA = pa.schema([pa.field("a", pa.int64())])


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = str(tmp_path / "result")
    with pytest.raises(TypeError), storage.atomic_folder(out, ["*"]) as folder:
        storage.write_json(storage.join(folder, "x.json"), object())
    assert list(tmp_path.iterdir()) == []
    with storage.atomic_folder(out, ["*"]) as folder:
        storage.write_json(storage.join(folder, "x.json"), {"ä": [1]})
        assert not storage.exists(out)
    assert storage.read_json(storage.join(out, "x.json")) == {"ä": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    out = str(tmp_path / "result")
    for value in (1, 2):
        with storage.atomic_folder(out, ["*"]) as folder:
            storage.write_json(storage.join(folder, f"{value}.json"), value)
            storage.write_json(storage.join(folder, storage.RECORD), {})
    assert storage.list_files(out) == ["2.json", "run.json"]


def test_a_relative_folder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.atomic_folder("runs/x") as folder:
        storage.write_json(storage.join(folder, "x.json"), 1)
    assert (tmp_path / "runs" / "x" / "x.json").exists()


def test_a_uri_is_a_path_too(tmp_path: Path) -> None:
    out = f"file://{tmp_path}/result"
    with storage.atomic_folder(out, ["*"]) as folder:
        storage.write_table(storage.join(folder, "t.parquet"), pa.table({"a": [1, 2]}))
    table = storage.read_table(storage.join(out, "t.parquet"), SCHEMA)
    assert table.column("a").to_pylist() == [1, 2]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        storage.read_table(str(bad), SCHEMA)
    storage.write_table(str(tmp_path / "b.parquet"), pa.table({"b": [1]}))
    with pytest.raises(DataError, match="lacks column 'a'"):
        storage.read_table(str(tmp_path / "b.parquet"), SCHEMA)
    with pytest.raises(DataError, match=r"none\.json"):
        storage.read_json(str(tmp_path / "none.json"))


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.tex"), storage.atomic_folder(str(tmp_path)):
        pass
    file = str(tmp_path / "thesis.tex")
    with pytest.raises(DataError, match="is a file"), storage.atomic_folder(file):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("names", [["config.json"], ["report", "model"], ["run.json", "notes"]])
def test_names_that_a_result_has_do_not_make_a_folder_ours(
    tmp_path: Path, names: list[str]
) -> None:
    for name in (*names, "a.parquet"):
        (tmp_path / name).mkdir()
    ours = ["*.parquet", "run.json", "report"]
    with (
        pytest.raises(DataError, match="no part of such a result"),
        storage.atomic_folder(str(tmp_path), ours),
    ):
        pass
    assert len(list(tmp_path.iterdir())) == len(names) + 1
