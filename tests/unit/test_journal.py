"""The class behind every journal: synthesis, batch inference and the judge's votes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from msrrec import storage
from msrrec.journal import Journal, read_lines

KILLED = """
import os, sys
from msrrec.journal import Journal
journal = Journal(sys.argv[1])
journal.append(b"first\\nsecond\\n")
os._exit(9)
"""


def test_what_was_appended_outlives_a_writer_that_is_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert list(Journal(str(tmp_path)).iter_lines()) == [b"first", b"second"]


def test_every_writer_has_a_file_of_its_own_and_readers_see_all(tmp_path: Path) -> None:
    first, second = Journal(str(tmp_path)), Journal(str(tmp_path))
    first.append(b"a\n")
    second.append(b"b\n")
    first.append(b"c\n")
    assert len(first.list_files()) == 2
    assert sorted(second.iter_lines()) == [b"a", b"b", b"c"]


def test_a_torn_last_line_leaves_the_lines_before_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "1.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert read_lines(str(path)) == [b'{"a": 1}', b'{"a": 2}', b'{"a"']


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path / "new"), ".parquet")
    journal.add_file(b"whole")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        journal.add_file(b"half")
    (path,) = journal.list_files()
    assert Path(path).read_bytes() == b"whole"


def test_files_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{}")
    assert Journal(str(tmp_path)).list_files() == []
    assert Journal(str(tmp_path / "missing")).list_files() == []


def test_an_object_store_gets_an_object_a_batch(bucket: str) -> None:
    journal = Journal(storage.join(bucket, "run"))
    journal.append(b"a\n")
    journal.append(b"b\n")
    assert len(storage.list_files(storage.join(bucket, "run"))) == 2
    assert list(journal.iter_lines()) == [b"a", b"b"]


def test_files_without_a_time_in_their_names_are_neither_joined_nor_taken_for_joined(
    bucket: str,
) -> None:
    folder = storage.join(bucket, "run")
    for line in (b"a\n", b"b\n"):
        Journal(folder).append(line)
    Journal(folder).add_file(b"c\n", "f00d")
    Journal(folder).add_file(b"d\n", "17")
    assert Journal(folder).compact() == 2
    Journal(folder).append(b"e\n")
    assert sorted(Journal(folder).iter_lines()) == [b"a", b"b", b"c", b"d", b"e"]
    assert len(storage.list_files(folder)) == 4
