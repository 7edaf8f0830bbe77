"""Which files of a folder are read, and what is said of the others."""

import logging
from pathlib import Path

import pytest

from msrrec.data.folders import find_files
from msrrec.errors import DataError


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names(found: list[str]) -> list[str]:
    return [path.rpartition("/")[2] for path in found]


def test_the_readable_files_of_a_folder_are_found_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "b.csv", "a.CSV.gz", "c.parquet", "d.tsv", "e.ndjson")
    assert names(find_files(str(tmp_path))) == [
        "a.CSV.gz",
        "b.csv",
        "c.parquet",
        "d.tsv",
        "e.ndjson",
    ]
    assert not caplog.records


def test_what_programs_leave_beside_data_is_skipped_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "part-0.csv", "._part-0.csv", ".DS_Store", "_SUCCESS", "_log/0.json", ".a.csv")
    assert names(find_files(str(tmp_path))) == ["part-0.csv"]
    assert names(find_files(str(tmp_path / "*.csv"))) == ["part-0.csv"]
    assert not caplog.records


def test_a_warning_counts_what_a_folder_holds_beside_what_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "part-0.csv", "part-1.csv.bz2", "part-2.csv.bz2", "part-3", "year=2024/a.csv")
    with caplog.at_level(logging.WARNING, "msrrec"):
        assert names(find_files(str(tmp_path))) == ["part-0.csv"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: reads 1 files and leaves out 3 files (2 of .bz2, 1 of no ending; such as "
        "part-1.csv.bz2) and 1 folders (such as year=2024)"
    )


@pytest.mark.parametrize("name", ["a.csv.zst", "a.txt", "year=2024/a.csv", "._a.csv"])
def test_a_folder_with_nothing_to_read_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    with pytest.raises(DataError, match="matches no file"):
        find_files(str(tmp_path))
    if not name.startswith("."):
        with pytest.raises(DataError, match=f"it holds 1 .*{name.partition('/')[0]}"):
            find_files(str(tmp_path))
