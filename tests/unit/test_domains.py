"""The name of the shop is never that of a kind of file."""

import pytest

from msrrec.data.domains import name_after_file


@pytest.mark.parametrize(
    "path",
    [
        "toys/interactions.tsv",
        "toys/INTERACTIONS.CSV",
        "toys/part-00000-1f2e-c000.snappy.parquet",
        "toys/interactions.*",
        "toys/part-*.csv",
        "toys/interactions.csv.gz",
        "toys/year=2024/month=01/part-0.parquet",
        "toys/interactions.parquet/",
        "toys/Ratings.JSONL.GZ",
        "toys.tsv",
        "toys.snappy.parquet",
        "toys.*",
    ],
)
def test_the_shop_is_named_after_the_last_name_that_says_something(path: str) -> None:
    assert name_after_file(path) == "toys"


def test_other_dots_and_words_stay_in_the_name() -> None:
    assert name_after_file("outdoor_v1.2.csv") == "outdoor v1.2"
    assert name_after_file("party_goods.csv") == "party goods"
    assert name_after_file("interactions.csv") == "shop"
