"""``prepare`` on small inputs, which it reads in its own process."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import DataConfig
from msrrec.data.columns import describe_columns
from msrrec.data.dataset import Dataset
from msrrec.data.prepare import check, prepare
from msrrec.data.sources import SOURCES
from msrrec.errors import ConfigError, DataError
from tests.support.shop import SHOP_SETTINGS, write_shop

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "own-data.md").read_text()
ITEMS = "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(12))
EVENTS = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user + n) % 12},{100 + n}\n" for user in range(8) for n in range(5)
)
KEEP_ALL = {"k_core": 1, "num_users": 0}


def run(folder: Path, events: str = EVENTS, items: str = ITEMS, **settings: Any) -> dict[str, Any]:
    """The manifest of a dataset made of two CSV files."""
    (folder / "events.csv").write_text(events)
    (folder / "items.csv").write_text(items)
    paths = [str(folder / name) for name in ("events.csv", "items.csv", "out")]
    return prepare("table", *paths, DataConfig(**{**KEEP_ALL, **settings}))


def test_a_shops_export_becomes_a_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    orders, products = write_shop(tmp_path)
    config = DataConfig(**KEEP_ALL, **SHOP_SETTINGS, num_negatives=2)
    with caplog.at_level(logging.INFO, "msrrec"):
        manifest = prepare("table", orders, products, str(tmp_path / "out"), config)
    # 10 users with 3 orders of 2 lines, a tip without an id, an order without a user
    assert manifest["num_rows"] == 62
    assert (manifest["num_users"], manifest["num_interactions"]) == (10, 60)
    assert manifest["dropped_events"]["missing_user"] == 1
    assert manifest["dropped_events"]["missing_item"] == 1
    assert "62 rows read = 60 kept + 1 missing_user + 1 missing_item" in caplog.text
    assert manifest["times"]["first"] == "2024-01-02T14:00:01Z"
    dataset = Dataset.load(str(tmp_path / "out"))
    # the lines of an order share its time, so they keep the order of the file
    assert dataset.events()["user0@example.com"] == [f"SKU-{n}" for n in (0, 1, 2, 3, 4, 5)]
    item = dataset.items["SKU-3"]
    assert (item.title, item.brand) == ('Lamp 3 6" & Shade', "Ace")
    assert item.categories == ("Home", "Lamps")


def test_every_row_is_kept_or_dropped_for_a_reason(tmp_path: Path) -> None:
    events = EVENTS + "u0,i0,100\nu9,i1,1\n,i1,1\nu1,mystery,7\n"
    settings = {"missing_fields": "drop", "missing_items": "drop", "min_user_events": 3}
    manifest = run(tmp_path, events, **settings)
    assert manifest["num_rows"] == 44
    assert manifest["dropped_events"] == {
        "missing_user": 1,
        "identical_event": 1,
        "untitled_item": 1,
        "k_core": 0,
        "user_length": 1,
        "not_sampled": 0,
    }
    assert manifest["num_interactions"] == 40


def test_users_that_differ_by_case_alone_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = EVENTS.replace("u7,", "U6,")
    assert run(tmp_path, events)["num_users"] == 8
    assert "1 user ids differ from another only by case" in caplog.text
    assert run(tmp_path, events, fold_users=True)["num_users"] == 7


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_items_of_another_shop_are_one_sentence(tmp_path: Path, missing: str) -> None:
    items = "item_id,title\nx1,Other\nx2,Other 2\n"
    with pytest.raises(DataError, match="none of the 12 items bought, such as 'i0'") as caught:
        run(tmp_path, items=items, missing_items=missing)
    assert "0 of them occur in 2 records, such as 'x1'" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="12 of them occur in 12 records"):
        run(tmp_path, items=re.sub(r"Title \d+", "nan", ITEMS), missing_items=missing)


def test_separators_and_encodings_make_no_difference(tmp_path: Path) -> None:
    items = ITEMS.replace("Title 3", "Café 3")
    expected = run(tmp_path, items=items)["sha256"]
    (tmp_path / "events.csv").write_text(EVENTS.replace(",", ";").replace("\n", "\r\n"))
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "items.csv").write_text(items.replace(",", "\t"), encoding=encoding)
        paths = [str(tmp_path / name) for name in ("events.csv", "items.csv", "out")]
        assert prepare("table", *paths, DataConfig(**KEEP_ALL))["sha256"] == expected


def movielens(folder: Path) -> None:
    folder.mkdir()
    ratings = "".join(f"{u},{(u + n) % 12},5.0,{100 + n}\n" for u in range(8) for n in range(5))
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    movies = "".join(f"{n},Film {n} (1995),Drama|War\n" for n in range(12))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies)


def test_a_file_of_ratings_stands_for_its_folder(tmp_path: Path) -> None:
    movielens(tmp_path / "ml")
    config, out = DataConfig(**KEEP_ALL), str(tmp_path / "out")
    hashes = [
        prepare("movielens", str(path), None, out, config)["sha256"]
        for path in (tmp_path / "ml", tmp_path / "ml" / "ratings.csv")
    ]
    assert hashes[0] == hashes[1]
    with pytest.raises(DataError, match="not a MovieLens folder"):
        check("movielens", str(tmp_path / "ml" / "movies.csv"), None, out, config)
    text = (tmp_path / "ml" / "ratings.csv").read_text()
    twice = re.sub("^(.*)$", r"\1,1", text, flags=re.MULTILINE).replace(
        "timestamp,1", "timestamp,user_id"
    )
    (tmp_path / "ml" / "ratings.csv").write_text(twice)
    with pytest.raises(DataError, match="'userId' and 'user_id' both mean user_id"):
        prepare("movielens", str(tmp_path / "ml"), None, out, config)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_movies_in_any_encoding_keep_their_titles(tmp_path: Path, encoding: str) -> None:
    titles = ["City… Lights (1931)", "Misérables, Les (1995)", "Vita à la Carte (2000)"]
    movies = "".join(f"{n}::{title}::Drama\n" for n, title in enumerate(titles))
    (tmp_path / "movies.dat").write_bytes(movies.encode(encoding))
    (tmp_path / "ratings.dat").write_text("0::0::5::1\n0::1::5::2\n0::2::5::3\n")
    source = SOURCES["movielens"](DataConfig())
    inputs = source.find(str(tmp_path), None)
    assert source.read_items(inputs.items[0])["title"].to_list() == titles
    assert source.read_items(inputs.items[0])["item_id"].to_list() == ["0", "1", "2"]


@pytest.mark.parametrize(
    "cut", ["{'asin': 'B1", "{'asin': 'B1', 'title': 'La", '{"asin": "B1", "ti']
)
def test_metadata_cut_within_a_line_are_one_sentence(tmp_path: Path, cut: str) -> None:
    review = {"reviewerID": "A", "asin": "B1", "unixReviewTime": 1, "reviewTime": "x"}
    (tmp_path / "r.json").write_text(
        "".join(json.dumps(review | {"unixReviewTime": n}) + "\n" for n in (1, 2, 3))
    )
    (tmp_path / "m.json").write_text(cut)
    paths = [str(tmp_path / name) for name in ("r.json", "m.json", "out")]
    with pytest.raises(DataError, match=r"m.json:1: the line breaks off") as caught:
        prepare("amazon", *paths, DataConfig(**KEEP_ALL))
    assert "\n" not in str(caught.value)


def test_what_can_be_seen_at_once_is_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "file").write_text("")
    events, items = str(tmp_path / "events.csv"), str(tmp_path / "absent.csv")
    config = DataConfig()
    with pytest.raises(DataError, match=r"absent.csv: no such file"):
        check("table", events, items, str(tmp_path / "out"), config)
    with pytest.raises(DataError, match="file: is a file"):
        check("table", events, events, str(tmp_path / "file"), config)
    with pytest.raises(ConfigError, match="--source 'sheet' is unknown; expected one of table, "):
        check("sheet", events, events, str(tmp_path / "out"), config)
    assert not check("table", events, events, str(tmp_path / "out"), config).needs_ray
    assert not (tmp_path / "out").exists()


def test_small_inputs_need_neither_ray_nor_pandas(tmp_path: Path) -> None:
    run(tmp_path)
    code = (
        "import sys\nfrom msrrec.config import DataConfig\n"
        "from msrrec.data.prepare import prepare\n"
        f"prepare('table', *{[str(tmp_path / n) for n in ('events.csv', 'items.csv', 'out')]!r},"
        " DataConfig(k_core=1))\n"
        "print([name for name in ('ray', 'pandas', 'torch') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_the_source_of_the_documentation_works(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("msrrec.data.sources.SOURCES", dict(SOURCES))
    block = re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert block is not None
    exec(block[1], {"__name__": "own_source"})
    loans = "".join(
        f"r{u}>b{(u + n) % 12}>2024-01-{n + 1:02}\n" for u in range(8) for n in range(5)
    )
    (tmp_path / "loans.csv").write_text(loans)
    (tmp_path / "books.csv").write_text("".join(f"b{n}=Book {n}\n" for n in range(12)))
    paths = [str(tmp_path / name) for name in ("loans.csv", "books.csv", "out")]
    manifest = prepare("loans", *paths, DataConfig(**KEEP_ALL))
    assert (manifest["num_users"], manifest["num_interactions"]) == (8, 40)
    assert manifest["source"] == "loans"


def test_the_documentation_lists_the_columns_that_are_read() -> None:
    assert f"```\n{describe_columns()}\n```" in DOCS


def test_the_documentations_settings_exist() -> None:
    from msrrec.config import load_config

    shown = re.findall(r'\b(data\.[a-z_.]+)=("[^"]*"|[^\s`]+)', DOCS.partition("<!-- columns")[0])
    shown += re.findall(r'\b(data\.[a-z_.]+)=("[^"]*"|[^\s`]+)', DOCS.partition("## Times")[2])
    assert len(shown) > 10
    load_config(overrides=[f"{key}={value}" for key, value in shown])
