"""Ids are one text each, however a program wrote them."""

import polars as pl
import pytest

from msrrec.data.ids import clean_ids
from msrrec.errors import DataError


def cleaned(*ids: str | None) -> list[str | None]:
    return clean_ids("f.csv", pl.Series("user_id", ids, dtype=pl.String)).to_list()


def test_whole_numbers_that_a_program_wrote_as_decimals_lose_their_ending() -> None:
    assert cleaned("1.0", "-2.0", None, "30.0", "") == ["1", "-2", None, "30", None]


@pytest.mark.parametrize("ids", [("1.0", "2.5"), ("1.0", "A2"), ("v1.0", "v2.0"), ("1.0.0", "2.0")])
def test_ids_that_only_look_like_decimals_stay(ids: tuple[str, ...]) -> None:
    assert cleaned(*ids) == list(ids)


@pytest.mark.parametrize("ids", [("1.0", "1"), ("7", "2.0", "3"), (" 1 ", None, "5.0 ")])
def test_two_spellings_of_whole_numbers_are_refused_with_one_of_each(
    ids: tuple[str | None, ...],
) -> None:
    with pytest.raises(DataError, match=r"f.csv: column 'user_id' holds '\d' as well as '\d.0'"):
        cleaned(*ids)


def test_outer_spaces_are_no_part_of_an_id() -> None:
    assert cleaned(" a b ", "\tc", "d\u00a0", "  ") == ["a b", "c", "d", None]
