"""Storage on real servers: one that is compatible with S3, and one with Google Cloud Storage."""

import asyncio
import logging
import os
import shutil
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

import msrrec.journal
from msrrec import lock, log, storage
from msrrec.command import emit
from msrrec.errors import DataError, ModelError
from msrrec.fingerprint import identify_model
from msrrec.journal import Journal
from msrrec.model_cache import fetch
from msrrec.models import EMBEDDED_DIR, ModelSettings, locate_model, write_settings
from msrrec.stage import Identity, is_finished, run_once
from msrrec.synthesis.journal import (
    JournalEntry,
    JournalWriter,
    Sampling,
    iter_entries,
    list_journal_files,
)
from msrrec.training import checkpoint
from msrrec.training.learner import Learner
from msrrec.training.live import EVENTS, Live
from msrrec.weights import check_source
from tests.support.object_store import ObjectStore


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    """The URI of a new bucket at each of the two."""
    if request.param == "gs":
        return str(request.getfixturevalue("google_store").make_bucket())
    store: ObjectStore = request.getfixturevalue("object_store")
    return store.uri(store.make_bucket())


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
    monkeypatch.setattr(lock, "POLL_S", 0.05)
    out = storage.join(bucket, "x")
    with lock.locked(out):
        second, said = lock.locked(out), rf"process {os.getpid()} on \S+ is writing there"
        with pytest.raises(DataError, match=said), second:
            pass
        with lock.locked(storage.join(bucket, "y")):
            pass
    assert storage.walk(bucket) == []


def test_the_lease_of_a_dead_process_lapses(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LAPSES_AFTER_S", 0.2)
    monkeypatch.setattr(lock, "POLL_S", 0.05)
    out = storage.join(bucket, "x")
    dead = {"token": "t", "host": "elsewhere", "pid": 1, "renewals": 7}
    storage.write_json(storage.beside(out, ".lock"), dead)
    with lock.locked(out):
        assert storage.read_json(storage.beside(out, ".lock"))["pid"] == os.getpid()
    assert storage.walk(bucket) == []


def test_credentials_are_in_no_log_and_no_file(
    object_store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = object_store.uri(object_store.make_bucket())
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


def test_many_small_objects_of_a_journal_become_one_in_the_same_order(bucket: str) -> None:
    folder = storage.join(bucket, "journal")
    first, second = Journal(folder), Journal(folder)
    for n in range(3):
        first.append(f"a{n}\n".encode())
        second.append(f"b{n}\n".encode())
    lines = list(first.iter_lines())
    assert sorted(lines) == [b"a0", b"a1", b"a2", b"b0", b"b1", b"b2"]
    assert Journal(folder).compact() == 6
    assert len(storage.list_files(folder)) == 1
    assert list(Journal(folder).iter_lines()) == lines
    Journal(folder).append(b"c\n")
    assert Journal(folder).compact() == 2
    assert list(Journal(folder).iter_lines()) == [*lines, b"c"]
    assert len(storage.list_files(folder)) == 1
    assert Journal(folder).compact() == 0


def test_a_compaction_that_was_killed_leaves_no_line_twice(bucket: str) -> None:
    folder = storage.join(bucket, "journal")
    journal = Journal(folder)
    for n in range(3):
        journal.append(f"{n}\n".encode())
    small = {name: storage.read_bytes(storage.join(folder, name)) for name in names_in(folder)}
    journal.compact()
    for name, content in small.items():  # as if they had not been deleted yet
        storage.write_bytes(storage.join(folder, name), content)
    assert list(journal.iter_lines()) == [b"0", b"1", b"2"]
    journal.compact()
    assert len(names_in(folder)) == 1
    assert list(journal.iter_lines()) == [b"0", b"1", b"2"]


def names_in(folder: str) -> list[str]:
    return storage.list_files(folder)


def test_completions_within_a_second_share_one_object(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(msrrec.journal, "BATCH_S", 0.3)
    folder = storage.join(bucket, "journal")
    writer = JournalWriter(folder)

    async def answer(n: int) -> None:
        await asyncio.sleep(n / 100)
        await writer.append(make_entry(n))

    async def main() -> None:
        await asyncio.gather(*(answer(n) for n in range(20)))

    asyncio.run(main())
    found = [entry for path in list_journal_files(folder) for entry in iter_entries(path)]
    assert [entry.attempt for entry in found if entry] == list(range(20))
    assert len(names_in(folder)) == 2  # the first answer by itself, and all others


def make_entry(attempt: int) -> JournalEntry:
    return JournalEntry(
        example_id="e",
        attempt=attempt,
        prompt_hash="h",
        sampling=Sampling("m", 1.0, 8),
        text="t",
        reasoning_content=None,
        finish_reason="stop",
        usage={},
        served_model="m",
        latency_s=0.1,
        tries=1,
        answered_at_s=0.0,
    )


def test_only_whole_checkpoints_are_resumed_from(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(folder: str, learner: Any, steps_done: int, rows: Any) -> None:
        for name in ("adapter_model.safetensors", checkpoint.METRICS):
            (Path(folder) / name).write_bytes(b"1")

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    run, learner = storage.join(bucket, "run"), cast(Learner, None)
    for step in (2, 4, 6):
        checkpoint.keep_checkpoint(run, learner, step, [])
    whole = [storage.join(run, f"step-0000000{step}") for step in (4, 6)]
    assert checkpoint.find_checkpoints(run) == whole
    assert checkpoint.steps_of(whole[-1]) == 6
    half = storage.join(run, "step-00000008")
    storage.write_bytes(storage.join(half, "adapter_model.safetensors"), b"1")
    assert checkpoint.find_checkpoints(run) == whole
    checkpoint.remove_incomplete(run)
    assert storage.list_folders(run) == ["step-00000004", "step-00000006"]


def test_metrics_of_a_run_are_uploaded_whole(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[checkpoint.MetricsRow] = [{"step": n, "loss": 1.0 / n} for n in (1, 2, 3)]
    live = Live(bucket, rows[:1], tensorboard=True)
    live.update(rows)
    assert checkpoint.read_metrics(bucket) == rows[:1]  # the last upload was a moment ago
    live.close()
    assert checkpoint.read_metrics(bucket) == rows
    (events,) = storage.list_files(storage.join(bucket, EVENTS))
    assert events.startswith("events.out")


def test_a_model_is_copied_once_until_it_changes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = storage.join(bucket, "model")
    for name in ("config.json", "model.safetensors", "checkpoints/step-1/model.safetensors"):
        storage.write_bytes(storage.join(place, name), b"{}")
    folder = Path(fetch(place))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert fetch(place) == str(folder)
    settings = Path(fetch(place, weights=False))
    assert [path.name for path in settings.iterdir()] == ["config.json"]
    storage.write_bytes(storage.join(place, "model.safetensors"), b"{ }")
    assert fetch(place) != str(folder)
    assert fetch(str(tmp_path)) == str(tmp_path)


def test_a_trained_model_at_a_uri_is_located_without_its_weights(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"prompt": {"answer_format": "title"}, "domain": "Shop", "base_model": "embedded"}
    place = storage.join(bucket, "runs", "mine")
    write_settings(place, cast(ModelSettings, settings))
    for name in ("config.json", "tokenizer.json"):
        storage.write_bytes(storage.join(place, "merged", name), b"{}")
    source = locate_model(place)
    assert (source.name, source.domain) == ("mine", "Shop")
    assert source.path == storage.join(place, "merged")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ModelError, match=r"merged\?\S+: holds no weights; copy the whole model"):
        check_source(source)
    shutil.copy(EMBEDDED_DIR / "model.safetensors.index.json", tmp_path / "index.json")
    index = storage.join(place, "merged", "model.safetensors.index.json")
    storage.copy_file(str(tmp_path / "index.json"), index)
    with pytest.raises(ModelError, match=r"merged\?\S+: lacks model-00001-of-00002\.safetensors"):
        check_source(source)
    before = identify_model(source)
    for n in (1, 2):
        name = f"model-0000{n}-of-00002.safetensors"
        storage.write_bytes(storage.join(place, "merged", name), b"1")
    check_source(source)
    assert identify_model(source) != before


def test_a_finished_stage_at_a_uri_is_skipped_and_an_unfinished_one_made_again(
    bucket: str,
) -> None:
    out, made = storage.join(bucket, "out"), []

    def work() -> dict[str, Any]:
        with storage.atomic_folder(out, ["*"]) as folder:
            storage.write_bytes(storage.join(folder, "x.bin"), b"1")
        made.append(1)
        return {"out": out}

    identity = Identity("prepare", {}, {})
    for _ in range(2):
        assert run_once(out, identity, work, keeps=True)["out"] == out
    assert len(made) == 1
    storage.delete_file(storage.join(out, storage.RECORD))  # as a killed run leaves it
    assert not is_finished(out)
    run_once(out, identity, work, keeps=True)
    assert len(made) == 2
