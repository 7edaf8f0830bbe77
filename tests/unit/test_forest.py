"""Forest plots: where rows, intervals and ticks stand."""

import pytest

from msrrec.report.plots import FOREST_LEFT, FOREST_RIGHT, ForestRow, forest


def row(value: float, reach: float, group: str = "") -> ForestRow:
    return ForestRow(group, "a − b", value, value - reach, value + reach, True, False)


def test_the_axis_holds_zero_and_all_intervals_between_round_numbers() -> None:
    # from 0 to 13 points in steps of 5, the least round step of which at most six are needed: 0..15
    figure = forest([row(0.08, 0.05, "w"), row(0.02, 0.01)])
    assert [label for _, label in figure.ticks] == ["0", "+5", "+10", "+15"]
    assert (figure.zero, figure.ticks[-1][0]) == (FOREST_LEFT, FOREST_RIGHT)
    first, second = figure.lines
    width = FOREST_RIGHT - FOREST_LEFT
    assert first.x == pytest.approx(FOREST_LEFT + width * 8 / 15)
    assert first.x_high == pytest.approx(FOREST_LEFT + width * 13 / 15)
    assert second.x_low == pytest.approx(FOREST_LEFT + width * 1 / 15)
    assert 0 < first.group_y < first.y < second.y < figure.height


def test_differences_below_zero_have_their_side_of_the_axis() -> None:
    figure = forest([row(-0.03, 0.01)])
    assert [label for _, label in figure.ticks] == ["-4", "-3", "-2", "-1", "0", "+1"]
    assert FOREST_LEFT < figure.zero < FOREST_RIGHT


def test_no_difference_at_all_can_be_drawn() -> None:
    (line,) = forest([row(0.0, 0.0)]).lines
    assert line.x == line.x_low == line.x_high == FOREST_LEFT
