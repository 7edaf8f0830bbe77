"""``prepare`` from files to a dataset folder, large inputs on a local Ray."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from msrrec.config import DataConfig
from msrrec.data.dataset import Dataset
from msrrec.data.prepare import prepare
from msrrec.errors import DataError
from msrrec.schema import SPLITS
from msrrec.titles import normalize_title
from tests.support.shop import SHOP_SETTINGS

NONE = -1
"""A limit below which no input is small."""

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def make_shop(folder: Path, num_files: int = 1) -> tuple[str, str]:
    """60 users with 6 to 9 purchases of 30 items, on few days, so that many ties occur."""
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},i{item},{day}\n"
        for user in range(60)
        for item, day in zip(
            rng.choice(30, rng.integers(6, 10), replace=False), rng.integers(0, 3, 9), strict=False
        )
    ]
    order = rng.permutation(len(rows))
    events = folder / "shop"
    events.mkdir(parents=True)
    for part, places in enumerate(np.array_split(order, num_files)):
        text = "user_id,item_id,timestamp\n" + "".join(rows[i] for i in places)
        (events / f"part-{part}.csv").write_text(text)
    items = folder / "items.csv"
    titles = "".join(f"i{i},Lamp {i - i % 10 if i > 27 else i}\n" for i in range(30))
    items.write_text("item_id,title\n" + titles)
    return str(events), str(items)


def test_the_dataset_is_complete_and_consistent(tmp_path: Path) -> None:
    events, items = make_shop(tmp_path)
    config = DataConfig(num_users=40, k_core=3, train_examples_per_user=0, history_length=4)
    manifest = prepare("table", events, items, str(tmp_path / "out"), config)
    dataset = Dataset.load(str(tmp_path / "out"))
    assert dataset.manifest == manifest
    assert dataset.domain == "shop"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "items.parquet",
        "manifest.json",
        "test.parquet",
        "train.parquet",
        "users.parquet",
        "validation.parquet",
    ]
    raw = pd.concat(pd.read_csv(p) for p in sorted(Path(events).iterdir()))
    for example in dataset.examples("test"):
        own = raw[raw.user_id == example.user_id].sort_values("timestamp", kind="stable").item_id
        assert [*example.history, example.target] == own.tolist()[-5:]
        assert example.example_id == f"{example.user_id}:test"
    everything = [example for split in SPLITS for example in dataset.examples(split)]
    assert len({example.example_id for example in everything}) == len(everything)
    for example in everything:
        own_ids = set(raw[raw.user_id == example.user_id].item_id)
        assert set(example.candidates) & own_ids == {example.target}
        assert len({normalize_title(t) for t in dataset.titles(example.candidates)}) == 6
    held_out = {e.user_id: {e.target} for e in dataset.examples("test")}
    for example in dataset.examples("validation"):
        held_out[example.user_id].add(example.target)
    for example in dataset.examples("train"):
        shown = {*example.history, *example.candidates}
        assert not shown & held_out[example.user_id]
    assert manifest["num_users"] == 40
    assert manifest["num_examples"]["test"] == 40
    counted = raw[raw.user_id.isin(held_out)]
    assert manifest["num_interactions"] == len(counted)
    assert manifest["num_items"] == counted.item_id.nunique() == len(dataset.items)
    assert manifest["num_examples"]["train"] == len(counted) - 3 * 40
    assert manifest["dropped_events"]["not_sampled"] == len(raw) - len(counted)
    assert str(tmp_path) not in json.dumps(manifest)


def test_one_file_or_five_and_one_part_or_many_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msrrec.data import loading

    config = DataConfig(num_users=50, k_core=4, seed=7)
    hashes = []
    for num_files, rows_per_task in ((1, 512), (5, 512), (5, 3)):
        monkeypatch.setattr(loading, "RECORDS_PER_TASK", rows_per_task)
        monkeypatch.setattr("msrrec.data.sources.base.SMALL_BYTES", NONE)
        folder = tmp_path / f"{num_files}-{rows_per_task}"
        events, items = make_shop(folder, num_files)
        hashes.append(prepare("table", events, items, str(folder / "out"), config)["sha256"])
    monkeypatch.undo()  # small again, so read in this process
    hashes.append(prepare("table", events, items, str(folder / "out"), config)["sha256"])
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]
    other = prepare(
        "table", events, items, str(tmp_path / "out"), config.model_copy(update={"seed": 8})
    )
    assert other["sha256"]["test.parquet"] != hashes[0]["test.parquet"]


def test_without_ties_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    _, items = make_shop(tmp_path)
    rng = np.random.default_rng(1)
    rows = [f"u{u},i{i},{t}\n" for u in range(30) for t, i in enumerate(rng.permutation(30)[:8])]
    hashes = []
    for order in (np.arange(len(rows)), rng.permutation(len(rows))):
        path = tmp_path / "events.csv"
        path.write_text("user_id,item_id,timestamp\n" + "".join(rows[i] for i in order))
        config = DataConfig(num_users=20, k_core=3)
        hashes.append(prepare("table", str(path), items, str(tmp_path / "out"), config)["sha256"])
    assert hashes[0] == hashes[1]


def amazon_files(folder: Path) -> tuple[str, str]:
    """Nine users with seven of 13 items each, and one with three; two items have no title.

    Users 0, 3, 6 buy the items 0 to 6, users 1, 4, 7 buy 3 to 9 and users 2, 5, 8 buy 6 to 12;
    user C buys 0, 4, 5. Item 4 has no title, item 12 no line.
    """
    bought = {f"A{u}": range(u % 3 * 3, u % 3 * 3 + 7) for u in range(9)} | {"C": (0, 4, 5)}
    reviews = [
        {"reviewerID": user, "asin": f"B{i}", "unixReviewTime": 86400 * i, "overall": 5.0}
        for user, items in bought.items()
        for i in items
    ]
    reviews.append(reviews[0])
    metas = [{"asin": f"B{i}", "title": f"Lamp {i}", "categories": [["Home"]]} for i in range(12)]
    del metas[4]["title"]
    metas.append(metas[0] | {"title": "a later line of the same item"})
    metas.insert(0, {"asin": "B1"})  # an untitled line before the one with the title
    with gzip.open(folder / "reviews_Home_5.json.gz", "wt") as file:
        file.writelines(json.dumps(review) + "\n" for review in reviews)
    with gzip.open(folder / "meta_Home.json.gz", "wt") as file:
        file.writelines(f"{meta}\n" for meta in metas)
    return str(folder / "reviews_Home_5.json.gz"), str(folder / "meta_Home.json.gz")


def test_amazon_events_without_a_title_are_dropped_and_counted(tmp_path: Path) -> None:
    reviews, meta = amazon_files(tmp_path)
    config = DataConfig(k_core=3, num_negatives=1, train_examples_per_user=0)
    manifest = prepare("amazon", reviews, meta, str(tmp_path / "out"), config)
    # item 4 was bought by 6 users and C, item 12 by 3; C then has two events left
    assert manifest["dropped_events"] == {
        "identical_event": 1,
        "untitled_item": 10,
        "k_core": 2,
        "user_length": 0,
        "not_sampled": 0,
    }
    assert (manifest["num_users"], manifest["num_items"]) == (9, 11)
    assert manifest["num_interactions"] == 9 * 7 - 9
    assert manifest["domain"] == "Home"
    assert Dataset.load(str(tmp_path / "out")).titles(["B0", "B1"]) == ["Lamp 0", "Lamp 1"]
    strict = config.model_copy(update={"missing_items": "error"})
    with pytest.raises(DataError, match="item 'B4', bought by user 'A0': has a blank title"):
        prepare("amazon", reviews, meta, str(tmp_path / "strict"), strict)


def test_dropping_after_a_first_core_equals_dropping_before(tmp_path: Path) -> None:
    reviews, meta = amazon_files(tmp_path)
    titled = tmp_path / "titled"
    titled.mkdir()
    with gzip.open(reviews, "rt") as source, gzip.open(titled / "r.json.gz", "wt") as sink:
        sink.writelines(line for line in source if '"B4"' not in line and '"B12"' not in line)
    config = DataConfig(k_core=3, num_negatives=1, domain="x")
    whole = prepare("amazon", reviews, meta, str(tmp_path / "a"), config)
    before = prepare("amazon", str(titled / "r.json.gz"), meta, str(tmp_path / "b"), config)
    assert whole["sha256"] == before["sha256"]


@pytest.mark.parametrize(
    ("events", "overrides", "message"),
    [
        ("a,i1,1\na,i9,2\na,i2,3\n", {}, "item 'i9', bought by user 'a': is not among the items"),
        ("a,i1,1\na,i3,2\na,i2,3\n", {}, "item 'i3', bought by user 'a': has a blank title"),
        ("a,i1,1\na,i2,2\nb,i1,1\nb,i2,2\nb,i1,3\n", {}, "user 'a': has 2 events"),
        ("a,i1,1\na,i2,2\na,i4,3\n", {}, "user 'a': leaves 0 of 3 items"),
        ("a,i1,1\na,i2,2\na,i4,3\n", {"k_core": 2}, "the 2-core of 3 events is empty"),
        ("a,i1,1\na,i2,2\na,i4,3\n", {"min_user_events": 4}, "none of 1 users has between"),
        ("a,i1,1\na,i2,soon\n", {}, r"events.csv: row 2: timestamp 'soon'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, events: str, overrides: dict[str, Any], message: str
) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + events)
    (tmp_path / "items.csv").write_text("item_id,title\ni1,A\ni2,B\ni3,\ni4,D\n")
    before = sorted(tmp_path.iterdir())
    paths = [str(tmp_path / name) for name in ("events.csv", "items.csv", "out")]
    with pytest.raises(DataError, match=message) as caught:
        prepare("table", *paths, DataConfig(**({"k_core": 1} | overrides)))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,i1,soon\n", r"part-1.csv: row 1: timestamp 'soon'"),
        ("a,,1\n", r"part-1.csv: row 1: has no item_id"),
        ("a,i1,1400000000000\n", r"part-1.csv: row 1: 1400000000000 in milliseconds"),
        ('a,"i1,1\n', r"part-1.csv:2: a quoted text begins here"),
    ],
)
def test_an_error_of_a_task_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, message: str
) -> None:
    monkeypatch.setattr("msrrec.data.sources.base.SMALL_BYTES", NONE)
    events, items = make_shop(tmp_path, num_files=1)
    (tmp_path / "shop" / "part-1.csv").write_text("user_id,item_id,timestamp\n" + rows)
    with pytest.raises(DataError, match=message) as caught:
        prepare("table", events, items, str(tmp_path / "out"), DataConfig(k_core=1))
    assert "\n" not in str(caught.value)


def test_rows_are_accounted_for_across_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msrrec.data.sources.base.SMALL_BYTES", NONE)
    events, items = make_shop(tmp_path, num_files=3)
    for part in range(2):
        with (tmp_path / "shop" / f"part-{part}.csv").open("a") as file:
            file.write(",i1,1\nu1,,1\nu1,i1,\n")
    config = DataConfig(k_core=1, num_users=0, missing_fields="drop")
    manifest = prepare("table", events, items, str(tmp_path / "out"), config)
    dropped = manifest["dropped_events"]
    assert [dropped[f"missing_{name}"] for name in ("user", "item", "time")] == [2, 2, 2]
    assert manifest["num_rows"] == manifest["num_interactions"] + sum(dropped.values())


def test_a_real_shops_export_becomes_a_dataset(tmp_path: Path, data_dir: Path) -> None:
    names = ("orders_export_1.csv.gz", "products_export.csv.gz")
    orders, products = (str(data_dir / "shop-export" / name) for name in names)
    config = DataConfig(**SHOP_SETTINGS, k_core=1, num_users=0, min_user_events=3)
    manifest = prepare("table", orders, products, str(tmp_path / "out"), config)
    frame = pd.read_csv(orders, dtype=str, keep_default_na=False)
    assert manifest["num_rows"] == len(frame)
    user = frame["Email"].str.strip().str.lower().replace("", None)
    user = user.groupby(frame["Name"]).transform("first")
    moment = pd.to_datetime(frame["Created at"], utc=True)
    kept = pd.DataFrame({"user": user, "item": frame["Lineitem sku"], "moment": moment})
    kept = kept[kept.user.notna() & kept.item.ne("")].drop_duplicates()
    lengths = kept.user.value_counts()
    kept = kept[kept.user.isin(lengths.index[lengths >= 3])]
    assert manifest["num_interactions"] == len(kept)
    assert manifest["num_users"] == kept.user.nunique()
    events = Dataset.load(str(tmp_path / "out")).events()
    for name, own in kept.groupby("user"):
        assert events[name] == own.sort_values("moment", kind="stable").item.tolist()


def test_the_embedded_world_becomes_a_dataset(tmp_path: Path) -> None:
    config = DataConfig(demo_users=60, num_users=0, k_core=1)
    manifest = prepare("demo", None, None, str(tmp_path / "out"), config)
    assert manifest["num_users"] == 60
    assert len(Dataset.load(str(tmp_path / "out")).examples("test")) == 60


def count_with_pandas(folder: Path, k: int, min_events: int) -> dict[str, int]:
    """The counts of Table 1 by another road: value_counts and loops."""
    events = pd.read_csv(folder / "interactions.csv.gz", dtype=str)
    items = pd.read_csv(folder / "items.csv.gz", dtype=str, keep_default_na=False)
    blank = items.title.str.strip().eq("")
    events = events[events.item_id.isin(items.item_id[~blank])]
    events = events.drop_duplicates(["user_id", "item_id", "timestamp"])
    before = -1
    while before != len(events):
        before = len(events)
        for column in ("user_id", "item_id"):
            counts = events[column].value_counts()
            events = events[events[column].isin(counts.index[counts >= k])]
    lengths = events.user_id.value_counts()
    events = events[events.user_id.isin(lengths.index[lengths >= min_events])]
    return {
        "num_users": events.user_id.nunique(),
        "num_items": events.item_id.nunique(),
        "num_interactions": len(events),
        "repeat_purchases": int(events.duplicated(["user_id", "item_id"]).sum()),
    }


@pytest.mark.parametrize(
    ("name", "k", "known"),
    [
        ("paper-scale/amazon2014-electronics-1m", 1, (1500, 5678, 9659)),
        ("small/amazon2014-toys-8core", 8, (1200, 1038, 22356)),
        ("ml-latest-small", 5, None),
        ("reasoningrec-fashion", 1, None),
        ("amazon2014-beauty", 10, None),
    ],
)
def test_real_purchases_are_counted_as_pandas_counts_them(
    tmp_path: Path, data_dir: Path, name: str, k: int, known: tuple[int, int, int] | None
) -> None:
    folder = data_dir / name
    config = DataConfig(k_core=k, num_users=0, min_user_events=3, missing_items="drop")
    events, items = (str(folder / f"{kind}.csv.gz") for kind in ("interactions", "items"))
    manifest = prepare("table", events, items, str(tmp_path / "out"), config)
    counted = count_with_pandas(folder, k, 3)
    assert {key: manifest[key] for key in counted} == counted
    if known:
        assert tuple(counted.values())[:3] == known
    dataset = Dataset.load(str(tmp_path / "out"))
    assert max(len(item.title) for item in dataset.items.values()) <= 160
    tests = dataset.examples("test")
    slots = np.bincount([example.candidates.index(example.target) for example in tests])
    assert slots.max() - slots.min() <= 1
    assert len(slots) == 6
