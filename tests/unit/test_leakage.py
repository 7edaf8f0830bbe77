"""No prompt or path knows what comes later, and none speaks of an answer that nobody told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.data.dataset import Dataset
from msrrec.data.leakage import find_leak, later_items, shows_later
from msrrec.schema import Item

TITLES = ["Red Lamp", "Blue Kettle", "Tent"]
KETTLE = 1
HISTORY = ["Green Tea", "Blue Kettle Cover"]


@pytest.mark.parametrize(
    "said",
    [
        "The user bought the Blue Kettle.",
        "since they already purchased (2) Blue Kettle",
        "The user owns a “Blue Kettle”",
        "The user has chosen candidate (2).",
        "Blue Kettle was bought by the user.",
        "Blue Kettle, which the user already bought, boils.",
        "The user rated the item 5 stars.",
        "the user has already rated it highly",
        "The user has purchased the recommended item.",
    ],
)
def test_the_target_told_as_bought_is_a_leak(said: str) -> None:
    assert find_leak([said], TITLES, KETTLE, HISTORY) == "tells the target as bought"


@pytest.mark.parametrize(
    "said",
    [
        "The correct answer is (2).",
        "the ground truth",
        "I was told that tea",
        "The user eventually bought it.",
        "we know that the user bought tea",
        "It equals the target item.",
    ],
)
def test_speaking_of_a_known_answer_is_a_leak(said: str) -> None:
    assert find_leak([said], TITLES, KETTLE, HISTORY) == "speaks of a known answer"


@pytest.mark.parametrize(
    "said",
    [
        "The user bought Green Tea, so the Blue Kettle fits.",
        "The user bought the Blue Kettle Cover.",
        "The user has not rated it yet.",
        "The user mostly buys tea. (2) fits best.",
        "Bought tea; (2) Blue Kettle boils water.",
        "The user bought the Tent.",
        "The right choice is the Blue Kettle.",
    ],
)
def test_what_the_prompt_shows_may_be_said(said: str) -> None:
    assert find_leak([said], TITLES, KETTLE, HISTORY) is None


def test_a_target_bought_before_may_be_told_as_bought() -> None:
    assert find_leak(["The user bought the Blue Kettle."], TITLES, KETTLE, ["BLUE KETTLE"]) is None


def test_a_held_out_title_is_a_leak_unless_it_lies_in_a_shown_one() -> None:
    assert find_leak(["likes the camp stove"], TITLES, KETTLE, HISTORY, ["Camp Stove"])
    assert find_leak(["likes campstoves"], TITLES, KETTLE, HISTORY, ["Camp Stove"]) is None
    assert find_leak(["Blue Kettle Cover"], TITLES, KETTLE, HISTORY, ["Kettle Cover"]) is None


def test_a_prompt_shows_a_later_item_by_any_title_that_counts_as_equal() -> None:
    assert shows_later(["Tent", "CAMP  stove "], ["Camp Stove"])
    assert not shows_later(["Camp Stove 2"], ["Camp Stove"])


def test_a_dataset_without_held_out_splits_has_nothing_later(tmp_path: Path) -> None:
    assert later_items(Dataset(str(tmp_path), {}, {"a": Item("a", "A")})) == {}


@given(st.lists(st.text(max_size=80), max_size=5), st.lists(st.text(max_size=30), max_size=3))
def test_no_path_raises(steps: list[str], later: list[str]) -> None:
    found = find_leak(steps, TITLES, KETTLE, HISTORY, later)
    assert found is None or isinstance(found, str)
