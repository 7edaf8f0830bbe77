from pathlib import Path

import pyarrow as pa

from msrrec.inference.journal import OutputJournal

SCHEMA = pa.schema([pa.field("example_id", pa.string())])


def journal(folder: Path, run: int = 1) -> OutputJournal:
    return OutputJournal(str(folder / "journal"), {"run": run}, SCHEMA)


def ids(found: OutputJournal) -> list[str]:
    return sorted(row["example_id"] for table in found.read() for row in table.to_pylist())


def test_batches_are_kept_for_the_same_run_and_thrown_away_by_another(tmp_path: Path) -> None:
    first = journal(tmp_path)
    assert ids(first) == []
    assert list(tmp_path.iterdir()) == []  # a run that keeps nothing leaves nothing
    first.append(pa.table({"example_id": ["b", "a"]}))
    first.append(pa.table({"example_id": ["c"]}))
    (tmp_path / "journal" / "half.parquet.0.tmp").write_bytes(b"PAR1")
    assert ids(journal(tmp_path)) == ["a", "b", "c"]
    other = journal(tmp_path, run=2)
    assert ids(other) == []
    other.append(pa.table({"example_id": ["d"]}))
    assert ids(journal(tmp_path, run=2)) == ["d"]
    other.delete()
    assert list(tmp_path.iterdir()) == []
