"""``msrrec index`` as people run it: its result, what it refuses, and what it recognises."""

from pathlib import Path

import pytest

from msrrec import storage
from msrrec.retrieval.folder import load_index
from tests.support.cli import Commands
from tests.support.object_store import ObjectStore
from tests.support.retrieval import ids, write_shop_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_shop_dataset(folder)
    return str(folder)


def test_an_index_is_built_once_and_recognised(
    msrrec: Commands, dataset: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "index")
    first = msrrec("index", "--dataset", dataset, "--out", out)
    assert first.code == 0, first.err
    summary = first.summary
    assert (summary["num_items"], summary["num_extra_items"]) == (6, 0)
    assert set(summary["weights"]) == {"transitions", "copurchase", "words", "popularity"}
    assert load_index(out).version == summary["version"]
    assert storage.read_object(f"{out}/run.json")["command"] == "index"
    again = msrrec("index", "--dataset", dataset, "--out", out)
    assert again.summary == summary
    assert "is finished; skipped" in again.err
    other = msrrec("index", "--dataset", dataset, "--out", out, "retrieval.repeats=true")
    assert other.code == 2
    assert "retrieval.repeats was False, now True" in other.sentence
    forced = msrrec("index", "--dataset", dataset, "--out", out, "--overwrite")
    assert forced.summary == summary


def test_further_items_are_read_from_a_table_and_found(
    msrrec: Commands, dataset: str, tmp_path: Path
) -> None:
    rows = ["sku;title;brand", "rug;<b>Red oak</b> rug;Ace", "lamp;Walnut lamp;", "x;;Ace"]
    rows.append("r2;Rug 2;")
    items, out = tmp_path / "new.csv", str(tmp_path / "index")
    items.write_text("\n".join(rows))
    given = ("index", "--dataset", dataset, "--items", str(items), "--out", out)
    built = msrrec(*given, "data.item_columns.item_id=sku", "retrieval.tuning_users=0")
    assert built.code == 0, built.err
    assert "leaves out 1 items without a title" in built.err
    assert (built.summary["num_extra_items"], built.summary["num_items"]) == (3, 8)
    index = load_index(out)
    assert index.catalogue.items[index.catalogue.codes["rug"]].title == "Red oak rug"
    assert index.catalogue.find_title("walnut lamp") == ["lamp"]  # the dataset's item, renamed
    assert "rug" in ids(index.search([["table"]], 3)[0])
    items.write_text("\n".join(rows[:2]))
    changed = msrrec(*given, "data.item_columns.item_id=sku", "retrieval.tuning_users=0")
    assert "extra_items changed since then; running again" in changed.err


def test_what_can_not_be_indexed_is_refused_in_one_sentence(
    msrrec: Commands, dataset: str, tmp_path: Path
) -> None:
    given = ("index", "--dataset", dataset, "--out", str(tmp_path / "index"))
    missing = msrrec(*given, "--items", str(tmp_path / "none.csv"))
    assert (missing.code, "no such file or folder" in missing.sentence) == (2, True)
    untitled = tmp_path / "untitled.csv"
    untitled.write_text("item_id,title\na,\n")
    refused = msrrec(*given, "--items", str(untitled))
    assert (refused.code, "no item has a title" in refused.sentence) == (2, True)
    untrained = msrrec(*given, "--sasrec", str(tmp_path))
    assert (untrained.code, "holds no sasrec.safetensors" in untrained.sentence) == (2, True)
    storage.delete_file(f"{dataset}/users.parquet")
    eventless = msrrec(*given)
    assert (eventless.code, "run `msrrec prepare` again" in eventless.sentence) == (2, True)
    assert not storage.exists(given[-1])


def test_the_settings_are_shown_without_work(msrrec: Commands, tmp_path: Path) -> None:
    given = ("--dataset", str(tmp_path / "none"), "--out", str(tmp_path / "index"))
    shown = msrrec("index", *given, "retrieval.weights.words=2", "--dry-run")
    assert shown.code == 0
    assert shown.summary["retrieval"]["weights"]["words"] == 2
    assert "retrieval.weights.words" in shown.err
    wrong = msrrec("index", *given, "retrieval.decay=2")
    assert (wrong.code, "retrieval.decay" in wrong.sentence) == (2, True)


def test_an_index_lies_on_an_object_store(
    msrrec: Commands,
    dataset: str,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    bucket = object_store.make_bucket()
    out = f"s3://{bucket}/index"
    built = msrrec("index", "--dataset", dataset, "--out", out)
    assert built.code == 0, built.err
    assert load_index(out).version == built.summary["version"]
    assert "index/index.json" in object_store.names(bucket)
