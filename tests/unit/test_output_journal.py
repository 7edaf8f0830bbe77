from pathlib import Path

import pyarrow as pa

from msrrec import storage
from msrrec.inference.journal import OutputJournal

SCHEMA = pa.schema([pa.field("example_id", pa.string())])


def journal(folder: Path, run: int = 1) -> OutputJournal:
    return OutputJournal(str(folder / "journal"), {"run": run}, SCHEMA)


def ids(found: OutputJournal) -> list[str]:
    tables = [table for table, _ in found.read(range(100))]
    return sorted(row["example_id"] for table in tables for row in table.to_pylist())


def test_batches_are_kept_for_the_same_run_and_thrown_away_by_another(tmp_path: Path) -> None:
    first = journal(tmp_path)
    assert ids(first) == []
    assert list(tmp_path.iterdir()) == []  # a run that keeps nothing leaves nothing
    first.append(pa.table({"example_id": ["b", "a"]}), range(2))
    first.append(pa.table({"example_id": ["c"]}), range(2, 3))
    (tmp_path / "journal" / "half.parquet.0.tmp").write_bytes(b"PAR1")
    assert ids(journal(tmp_path)) == ["a", "b", "c"]
    other = journal(tmp_path, run=2)
    assert ids(other) == []
    other.append(pa.table({"example_id": ["d"]}), range(1))
    assert ids(journal(tmp_path, run=2)) == ["d"]
    other.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_range_of_places_is_read_without_its_neighbours(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.append(pa.table({"example_id": ["a"]}), range(10))
    first.append(pa.table({"example_id": ["b"]}), range(10, 20))
    again = journal(tmp_path)
    again.append(pa.table({"example_id": ["c"]}), range(15, 16))
    tables = {table["example_id"][0].as_py(): old for table, old in again.read(range(10, 16))}
    assert tables == {"b": True, "c": False}
    earlier = list(again.read_earlier(range(9, 20), SCHEMA))
    assert sorted(table["example_id"][0].as_py() for table in earlier) == ["a", "b"]
    assert again.has_earlier
    assert not first.has_earlier


def test_a_file_without_places_is_read_for_any(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.append(pa.table({"example_id": ["a"]}), range(1))
    (file,) = (tmp_path / "journal").glob("*.parquet")
    file.rename(file.with_name("0123456789abcdef.parquet"))
    assert [old for _, old in journal(tmp_path).read(range(50, 60))] == [True]


def test_a_run_that_begins_again_joins_the_files_on_an_object_store(bucket: str) -> None:
    folder = storage.join(bucket, "journal")

    def begin() -> OutputJournal:
        return OutputJournal(folder, {"run": 1}, SCHEMA)

    first = begin()
    first.append(pa.table({"example_id": ["c"]}), range(8, 12))
    first.append(pa.table({"example_id": ["a", "b"]}), range(4))
    again = begin()
    (joined,) = [name for name in storage.list_files(folder) if name.endswith(".parquet")]
    assert joined.startswith("0000000000-0000000012-")
    again.append(pa.table({"example_id": ["d"]}), range(4, 8))
    found = {tuple(table["example_id"].to_pylist()): old for table, old in again.read(range(4, 8))}
    assert found == {("a", "b", "c"): True, ("d",): False}
    assert ids(begin()) == ["a", "b", "c", "d"]
    assert len(storage.list_files(folder)) == 2  # with the identity


def test_files_on_a_disk_stay_as_they_are(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.append(pa.table({"example_id": ["a"]}), range(1))
    first.append(pa.table({"example_id": ["b"]}), range(1, 2))
    assert ids(journal(tmp_path)) == ["a", "b"]
    assert len(list((tmp_path / "journal").glob("*.parquet"))) == 2
