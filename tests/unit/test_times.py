"""Times as strangers write them."""

from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.data.times import format_moment, read_times


def moments(*texts: str, pattern: str | None = None) -> list[str]:
    read = read_times(pl.Series(texts, dtype=pl.String), pattern)
    assert not read.bad.any()
    return [format_moment(int(ticks), read.ticks_per_s) for ticks in read.ticks]


@pytest.mark.parametrize(
    "text",
    [
        "1724633969",
        "1724633969.0",
        "1724633969.00",
        "1.724633969e+09",
        "1724633969000",
        "1724633969000000",
        "1724633969000000000",
        "2024-08-26T00:59:29Z",
        "2024-08-26T00:59:29+00:00",
        "2024-08-25 20:59:29 -0400",
        "2024-08-25 20:59:29-04:00",
        "2024-08-25T20:59:29.000-04",
        "2024-08-26 00:59:29 UTC",
        "2024-08-26 00:59:29",
        "2024-08-26T06:29:29+05:30",
        "20240826T005929Z",
        "20240825T205929-0400",
        "2024-08-26 00:59:29,000",
        "2024-08-26t00:59:29z",
    ],
)
def test_one_moment_in_many_spellings(text: str) -> None:
    assert moments(text) == ["2024-08-26T00:59:29Z"]


def test_a_date_alone_is_its_midnight_and_a_time_may_lack_seconds() -> None:
    assert moments("2024-08-25", "2024-08-25T20:59") == [
        "2024-08-25T00:00:00Z",
        "2024-08-25T20:59:00Z",
    ]


def test_any_other_way_is_named_by_its_pattern() -> None:
    found = moments("25.08.2024 20:59", "01.02.2023 00:00", pattern="%d.%m.%Y %H:%M")
    assert found == ["2024-08-25T20:59:00Z", "2023-02-01T00:00:00Z"]
    found = moments("Aug 25 2024 08:59 PM -0400", pattern="%b %d %Y %I:%M %p %z")
    assert found == ["2024-08-26T00:59:00Z"]


def test_whole_numbers_stay_as_they_are() -> None:
    read = read_times(pl.Series(["1588687728923", "0", "1588687728924"]))
    assert read.ticks.tolist() == [1588687728923, 0, 1588687728924]
    assert read.ticks_per_s == 1000
    assert read.units == ["milliseconds"]


def test_the_order_keeps_the_resolution_of_the_input() -> None:
    for texts in (
        ["1400000000.25", "1400000000.75", "1400000000"],
        ["2024-08-25 20:59:29.123456788", "2024-08-25 20:59:29.123456789", "2024-08-25 20:59:29"],
        ["1588687728923.5", "1588687728923.75", "1588687728923"],
    ):
        ticks = read_times(pl.Series(texts)).ticks
        assert ticks[2] < ticks[0] < ticks[1]


@pytest.mark.parametrize(
    "text",
    ["soon", "2024-02-30", "2024-13-01", "2024-08-25 25:00", "1.5", "25/08/2024", "inf", "9" * 30],
)
def test_what_is_no_time_is_told(text: str) -> None:
    read = read_times(pl.Series(["1400000000", text]))
    assert read.bad.tolist() == [False, True]


def test_the_first_row_of_each_unit_is_known() -> None:
    read = read_times(pl.Series(["0", "1400000000", "1400000000000", "1400000001"]))
    assert dict(read.firsts) == {"seconds": 1, "milliseconds": 2}


@pytest.mark.parametrize(
    ("texts", "advice"),
    [
        (("20240825", "20230101"), "%Y%m%d"),
        (("25012022", "31122021"), "%d%m%Y"),
        (("2019", "2021"), "=%Y"),
        (("202408", "202312"), "%Y%m"),
        (("202408252059", "202301012059"), "%Y%m%d%H%M"),
        (("20240825205929",), "%Y%m%d%H%M%S"),
        (("45529", "45000.0"), "a day of Excel"),
        (("0", "20240825"), "%Y%m%d"),
        (("1400000000", "20240825"), "data.timestamp_format"),
        (("1400000000", "-1"), "data.timestamp_format"),
        (("5", "4000000"), "or seconds if"),
        (("2024-08-25", "45529"), "a day of Excel"),
    ],
)
def test_numbers_that_are_dates_are_no_times(texts: tuple[str, ...], advice: str) -> None:
    misread = read_times(pl.Series(texts)).misread
    assert misread is not None
    assert advice in misread[1]
    assert texts[misread[0]] != "0"


@pytest.mark.parametrize(
    "texts",
    [
        ("1", "2", "3"),
        ("0", "999999"),
        ("0", "0"),
        ("1400000000", "0"),
        ("789652009", "1724633969"),
        ("911111111111", "1588687728923"),
        ("1", "2019", "45529"),
    ],
)
def test_an_order_and_moments_since_1973_are_times(texts: tuple[str, ...]) -> None:
    read = read_times(pl.Series(texts))
    assert read.misread is None
    assert read.ticks.tolist() == [int(text) for text in texts]


def test_a_unit_that_is_set_makes_any_number_a_time() -> None:
    assert moments("2019", "45529", pattern="seconds") == [
        "1970-01-01T00:33:39Z",
        "1970-01-01T12:38:49Z",
    ]
    assert moments("86400000", "500.5", pattern="milliseconds") == [
        "1970-01-02T00:00:00Z",
        "1970-01-01T00:00:00Z",
    ]
    assert read_times(pl.Series(["5", "x"]), "seconds").bad.tolist() == [False, True]


@given(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)))
def test_iso_texts_of_python_are_read_to_the_microsecond(moment: datetime) -> None:
    microseconds = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    for text in (moment.isoformat(), moment.isoformat(" "), moment.isoformat() + "+00:00"):
        assert read_times(pl.Series([text])).ticks.tolist() == [microseconds * 1000]
