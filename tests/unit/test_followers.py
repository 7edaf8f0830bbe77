"""What is bought after what, and whether that says more than habit."""

import pytest

from msrrec.config.data import DemoWorld
from msrrec.embedded.followers import learn_followers
from msrrec.embedded.world import make_world

CYCLE = ["tea", "cups", "cake"]
ON_THE_CYCLE = [[CYCLE[(start + n) % 3] for n in range(3)] for start in range(3)] * 6
"""18 histories of three purchases; each holds every category once."""


def test_followers_are_learned_where_order_foretells_more_than_habit() -> None:
    found = learn_followers(ON_THE_CYCLE)
    assert found is not None
    assert found.ranked("tea") == ["cups"]
    assert found.share("tea", "cups") == 1.0
    assert found.share("tea", "cake") == 0.0


def test_habit_decides_where_customers_come_back() -> None:
    assert learn_followers([["tea", "tea", "tea"], ["cake", "cake", "cake"]] * 10) is None


def test_a_few_histories_are_not_enough_to_leave_habit() -> None:
    assert learn_followers(ON_THE_CYCLE[:6]) is None
    assert learn_followers([]) is None
    assert learn_followers([["tea"], []]) is None


def test_the_last_step_of_a_history_does_not_count_for_its_own_guess() -> None:
    # every step occurs once, so without itself none is foretold
    once = [[f"a{n}", f"b{n}", f"c{n}"] for n in range(50)]
    assert learn_followers(once) is None


def test_shares_are_of_all_purchases_after_a_category_and_ties_go_by_name() -> None:
    found = learn_followers([*ON_THE_CYCLE, ["tea", "zoo"], ["tea", "art"]])
    assert found is not None
    # of 12 + 2 purchases after tea, 12 are cups
    assert found.share("tea", "cups") == 12 / 14
    assert found.ranked("tea") == ["cups", "art", "zoo"]
    assert found.share("never bought", "tea") == 0.0
    assert found.ranked("never bought") == []


@pytest.mark.parametrize(
    ("world", "is_learned"), [("mixture", False), ("transitions", True), ("unnamed", False)]
)
def test_of_the_generated_worlds_only_the_one_in_which_order_matters_has_followers(
    world: DemoWorld, is_learned: bool
) -> None:
    interactions, items = make_world(300, 0, world)
    categories = {row["item_id"]: row["categories"][-1] for row in items.to_pylist()}
    histories: dict[str, list[str]] = {}
    for row in interactions.to_pylist():  # of each user in the order of time
        histories.setdefault(row["user_id"], []).append(categories[row["item_id"]])
    assert (learn_followers(histories.values()) is not None) == is_learned
