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


URI = "s3://key:secret@bucket/runs/x?endpoint_override=127.0.0.1:5000&scheme=http"
OPTIONS = "?endpoint_override=127.0.0.1:5000&scheme=http"


def test_the_options_of_a_uri_stay_at_its_end() -> None:
    begin = "s3://key:secret@bucket"
    assert storage.join(URI, "a", "b.json") == f"{begin}/runs/x/a/b.json{OPTIONS}"
    assert storage.beside(URI, ".journal") == f"{begin}/runs/x.journal{OPTIONS}"
    assert storage.parent(URI) == f"{begin}/runs{OPTIONS}"
    assert storage.parent(storage.parent(URI)) == f"{begin}{OPTIONS}"
    assert storage.parent(f"{begin}{OPTIONS}") == f"{begin}{OPTIONS}"
    assert storage.base_name(URI) == "x"
    assert storage.base_name(f"{begin}/{OPTIONS}") == "bucket"


@pytest.mark.parametrize(
    ("path", "above", "name", "journal"),
    [
        ("runs/x", "runs", "x", "runs/x.journal"),
        ("runs/x/", "runs", "x", "runs/x.journal"),
        ("x", ".", "x", "x.journal"),
        ("/x", "/", "x", "/x.journal"),
        ("/a/b?c", "/a", "b?c", "/a/b?c.journal"),
        ("s3://bucket/x/", "s3://bucket", "x", "s3://bucket/x.journal"),
        ("s3://bucket", "s3://bucket", "bucket", "s3://bucket.journal"),
    ],
)
def test_paths_are_taken_apart(path: str, above: str, name: str, journal: str) -> None:
    assert storage.parent(path) == above
    assert storage.base_name(path) == name
    assert storage.beside(path, ".journal") == journal


def test_a_shown_path_has_no_credentials() -> None:
    assert storage.shown(URI) == f"s3://bucket/runs/x{OPTIONS}"
    assert storage.shown("a gs://u:p@b/x?sas_token=abc&x=1") == "a gs://b/x?sas_token=…&x=1"
    assert "secret" not in str(DataError(f"{URI}: is a file"))
    assert storage.shown("https://host:80/x and a:b@c") == "https://host:80/x and a:b@c"


def test_an_unknown_uri_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"ftp://host/x: no such URI \(.*\); expected s3://bucket"):
        storage.exists("ftp://host/x")
    with pytest.raises(DataError, match="no such URI"):
        storage.exists("s3://bucket/x?no_such_option=1")


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ("AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 7", "does not answer"),
        ("AWS Error ACCESS_DENIED during PutObject", "refuses the credentials; .* bucket 'b'"),
        ("AWS Error NO_SUCH_BUCKET during PutObject", "there is no bucket 'b'; create it"),
        ("AWS Error SLOW_DOWN during PutObject", r"refuses \(AWS Error SLOW_DOWN"),
    ],
)
def test_what_an_object_store_refuses_is_one_sentence(refusal: str, sentence: str) -> None:
    with pytest.raises(DataError, match=rf"^s3://b/x: .*{sentence}"), storage.told("s3://k:s@b/x"):
        raise OSError(refusal)
    with pytest.raises(OSError, match=r"^disk full$"), storage.told("/tmp/x"):
        raise OSError("disk full")
