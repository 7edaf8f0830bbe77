"""Storage on a real S3-compatible server."""

import logging
import os
from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import lock, log, storage
from msrrec.command import emit
from msrrec.errors import DataError
from tests.support.object_store import ObjectStore


def test_the_bucket_alone_is_a_folder(bucket: str) -> None:
    storage.write_json(storage.join(bucket, "a b", "%20.json"), 1)
    assert [entry.name for entry in storage.walk(bucket)] == ["a b/%20.json"]
    assert storage.list_folders(bucket) == ["a b"]
    assert storage.read_json(storage.join(bucket, "a b", "%20.json")) == 1


def test_the_environment_alone_finds_the_store(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_REGION")
    path = f"s3://{object_store.make_bucket()}/x.parquet"
    storage.write_table(path, pa.table({"a": [1, 2]}))
    schema = pa.schema([("a", pa.int64())])
    assert storage.read_table(path, schema).column("a").to_pylist() == [1, 2]


def test_a_written_file_is_one_object_without_a_temporary_name(
    object_store: ObjectStore,
) -> None:
    name = object_store.make_bucket()
    storage.write_bytes(object_store.uri(name, "deep/folder/x.bin"), b"abc")
    assert object_store.names(name) == ["deep/folder/x.bin"]
    storage.delete_folder(object_store.uri(name, "deep"))
    assert object_store.names(name) == []


def test_a_result_replaces_the_old_one_whose_record_goes_first(bucket: str) -> None:
    out = storage.join(bucket, "runs", "x")
    for name in ("a", "b"):
        with storage.atomic_folder(out, ["*"]) as folder:
            assert not storage.exists(storage.join(out, storage.RECORD))
            assert storage.list_files(out) == []
            storage.write_bytes(storage.join(folder, f"{name}.bin"), b"1")
        storage.write_json(storage.join(out, storage.RECORD), {})
    assert storage.list_files(out) == ["b.bin", storage.RECORD]


def test_a_failed_result_leaves_nothing(bucket: str) -> None:
    out = storage.join(bucket, "x")
    storage.write_bytes(storage.join(out, "deep", "old.bin"), b"1")
    with pytest.raises(TypeError), storage.atomic_folder(out, ["*"]) as folder:
        storage.write_json(storage.join(folder, "deep", "a.json"), object())
    assert storage.walk(bucket) == []


def test_a_folder_with_strange_files_is_not_replaced(bucket: str) -> None:
    storage.write_bytes(storage.join(bucket, "x", "mine.txt"), b"1")
    with pytest.raises(DataError, match=r"holds 'mine\.txt'"):
        storage.atomic_folder(storage.join(bucket, "x"), ["*.json"])


def test_what_libraries_write_here_is_uploaded_with_the_marker_last(bucket: str) -> None:
    out = storage.join(bucket, "model")
    with storage.built_folder(out, ["*"], last="a.json") as folder:
        (Path(folder) / "deep").mkdir()
        (Path(folder) / "deep" / "w.bin").write_bytes(b"12")
        (Path(folder) / "a.json").write_text("{}")
        assert storage.walk(out) == []
    entries = storage.walk(out)
    assert [(entry.name, entry.size) for entry in entries] == [("a.json", 2), ("deep/w.bin", 2)]


def test_folders_are_copied_from_and_to_a_store(bucket: str, tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt"):
        storage.write_bytes(str(tmp_path / "here" / name), name.encode())
    storage.copy_folder(str(tmp_path / "here"), storage.join(bucket, "there"))
    storage.copy_folder(storage.join(bucket, "there"), str(tmp_path / "back"))
    assert (tmp_path / "back" / "b" / "c.txt").read_text() == "b/c.txt"
    assert (tmp_path / "back" / "a.txt").read_text() == "a.txt"


def test_a_missing_bucket_is_said_to_be_missing(object_store: ObjectStore) -> None:
    path = object_store.uri("no-such-bucket", "x")
    for ask in (storage.exists, storage.list_files, storage.read_bytes, storage.check_writable):
        with pytest.raises(DataError, match="there is no bucket 'no-such-bucket'; create it") as e:
            ask(path)
        assert "secret" not in str(e.value)


def test_a_missing_file_is_one_sentence(bucket: str) -> None:
    with pytest.raises(DataError, match=r"none\.json\?\S+: no such file or folder; expected one"):
        storage.read_json(storage.join(bucket, "none.json"))


@pytest.mark.parametrize("name", ["out", "s3://bucket/out"])
def test_leftovers_are_known_by_their_names(name: str) -> None:
    assert storage.is_leftover(f"{name}.0a1b2c3d.partial/evaluation.json")
    assert storage.is_leftover(f"{name}/x.json.{'0' * 32}.tmp")
    assert not storage.is_leftover(f"{name}/partial.json")


def test_leftovers_of_killed_runs_are_swept(tmp_path: Path) -> None:
    left = tmp_path / "out.0a1b2c3d.partial"
    mine = tmp_path / "out.mine.partial"
    for folder in (left, mine):
        folder.mkdir()
    with storage.atomic_folder(str(tmp_path / "out")):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.mine.partial"]


def test_a_second_writer_is_refused_while_the_first_renews_its_lease(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEWED_EVERY_S", 0.1)
    out = storage.join(bucket, "x")
    with lock.locked(out):
        second, said = lock.locked(out), rf"process {os.getpid()} on \S+ is writing there"
        with pytest.raises(DataError, match=said), second:
            pass
        with lock.locked(storage.join(bucket, "y")):
            pass
    assert storage.walk(bucket) == []


def test_the_lease_of_a_dead_process_lapses(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LAPSES_AFTER_S", 0.5)
    out = storage.join(bucket, "x")
    dead = {"token": "t", "host": "elsewhere", "pid": 1, "renewals": 7}
    storage.write_json(storage.beside(out, ".lock"), dead)
    with lock.locked(out):
        assert storage.read_json(storage.beside(out, ".lock"))["pid"] == os.getpid()
    assert storage.walk(bucket) == []


def test_credentials_are_in_no_log_and_no_file(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "key:secret@" in bucket
    log.setup()
    logging.getLogger("msrrec.test").warning("%s: read", bucket)
    emit({"out": bucket})
    shown = capsys.readouterr()
    assert "s3://bucket-" in shown.out
    assert "s3://bucket-" in shown.err
    storage.write_json(storage.join(bucket, "x.json"), {"out": bucket})
    written = storage.read_bytes(storage.join(bucket, "x.json")).decode()
    assert "s3://bucket-" in written
    assert "secret" not in shown.out + shown.err + written
