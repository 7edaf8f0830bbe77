"""How the columns of a file are found, and what is said of those that are not."""

import logging
from pathlib import Path

import pytest

from msrrec.config import DataConfig, load_config
from msrrec.data.columns import EVENT_COLUMNS, ITEM_COLUMNS, ColumnChoice, describe_columns
from msrrec.data.loading import parse_part
from msrrec.data.sources import make_source
from msrrec.errors import ConfigError, DataError


def choice(**names: str) -> ColumnChoice:
    return ColumnChoice(EVENT_COLUMNS, names, "data.columns")


def test_columns_are_found_by_their_own_or_their_given_names() -> None:
    found = ["timestamp", "Email", "item_id", "rating"]
    assert choice(user_id="Email").match("f", found) == {
        "user_id": "Email",
        "item_id": "item_id",
        "timestamp": "timestamp",
    }


def test_case_counts_only_where_nothing_else_fits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "msrrec"):
        matched = choice().match("f", ["User_ID", "item_id", "ITEM_ID", "timestamp"])
    assert matched["user_id"] == "User_ID"
    assert matched["item_id"] == "item_id"
    assert "reads column 'User_ID' as user_id" in caplog.text
    assert "ITEM_ID" not in caplog.text


@pytest.mark.parametrize(
    ("found", "names", "message"),
    [
        (
            ["Email", "item_id", "timestamp"],
            {},
            r"f: lacks column 'user_id'; its columns are Email, item_id, timestamp; did you mean "
            r"'Email'\?; set data.columns.user_id=Email",
        ),
        (
            ["user_id", "item_id", "Created at"],
            {},
            r"did you mean 'Created at'\?; set data.columns.timestamp='Created at'",
        ),
        (["userId", "item_id", "timestamp"], {}, "set data.columns.user_id=userId"),
        (["a", "item_id", "timestamp"], {}, "set data.columns.user_id=NAME"),
        (
            ["Email", "item_id", "timestamp"],
            {"user_id": "Emial"},
            r"lacks column 'Emial' \(data.columns.user_id\).*did you mean 'Email'",
        ),
        (
            ["user_id", "item_id", "timestamp"],
            {"order_id": "Nmae"},
            r"lacks column 'Nmae' \(data.columns.order_id\)",
        ),
        (["USER_ID", "User_Id", "item_id", "timestamp"], {}, "both mean user_id; expected one"),
        (["user_id", "user_id", "item_id", "timestamp"], {}, "has 2 columns 'user_id'"),
    ],
)
def test_a_column_that_is_missing_or_there_twice_is_one_sentence(
    found: list[str], names: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        choice(**names).match("f", found)
    assert "\n" not in str(caught.value)


def test_category_and_categories_mean_one_thing() -> None:
    items = ColumnChoice(ITEM_COLUMNS, {}, "data.item_columns")
    matched = items.match("f", ["item_id", "title", "category"])
    assert matched["categories"] == "category"
    with pytest.raises(DataError, match=r"both mean categories; .*data.item_columns.categories="):
        items.match("f", ["item_id", "title", "category", "categories"])


def test_settings_of_columns_nest_and_may_be_numbers() -> None:
    config = load_config(overrides=["data.columns.user_id=Email", "data.columns.item_id=0"]).data
    assert (config.columns.user_id, config.columns.item_id) == ("Email", "0")
    assert config.item_columns.title is None


def test_settings_that_a_source_would_ignore_are_refused() -> None:
    for settings in ({"separator": ";"}, {"columns": {"user_id": "x"}}):
        with pytest.raises(ConfigError, match=r"data.(separator|columns): --source movielens"):
            make_source("movielens", DataConfig(**settings))


def test_keys_of_json_lines_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(
        '{"SKU": "a", "TITLE": "Lamp", "other": 1}\n{"SKU": "b", "TITLE": "Mug", "brand": "Ace"}\n'
    )
    config = DataConfig(item_columns={"item_id": "SKU"})
    source = make_source("table", config)
    items = parse_part(source, source.read_records(str(path), None)).to_pylist()
    assert [(i["item_id"], i["title"], i["brand"]) for i in items] == [
        ("a", "Lamp", None),
        ("b", "Mug", "Ace"),
    ]
    with pytest.raises(DataError, match="its columns are SKU, TITLE, other, brand"):
        make_source("table", DataConfig()).read_records(str(path), None)


def test_the_description_names_every_column() -> None:
    text = describe_columns()
    for column in (*EVENT_COLUMNS, *ITEM_COLUMNS):
        assert f"  {column.name}" in text
        assert column.meaning in text
