"""What prose says for and against a candidate decides whether it is the choice."""

import pytest

from msrrec.reasoning.choice import parse_recommendation, read_recommendation
from msrrec.reasoning.parsing import ParseFailure

LAMPS = ["Red Lamp", "Red Lamp 2", "Blue Kettle"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("Red Lamp was considered, but I recommend Blue Kettle.", 2),
        ("Red Lamp is a good option, but Blue Kettle is the best choice.", 2),
        ("Red Lamp is the best for tea, but I choose Blue Kettle.", "ambiguous"),
        ("Red Lamp is close, yet the user would prefer Blue Kettle.", 2),
        ("Red Lamp suits a desk, however Blue Kettle makes tea.", "ambiguous"),
        ("While Red Lamp is good, Blue Kettle is the best.", 2),
        ("Red Lamp is less suitable than Blue Kettle.", 2),
        ("Red Lamp is a worse fit than Blue Kettle.", 2),
        ("Red Lamp is not as fitting.", "not_a_candidate"),
        ("Red Lamp? No, Blue Kettle.", 2),
        ("Instead of Red Lamp, I recommend Blue Kettle.", 2),
        ("Compared with Red Lamp, Blue Kettle is the best.", 2),
        ("Red Lamp or Blue Kettle", "ambiguous"),
        ("Red Lamp / Blue Kettle", "ambiguous"),
        ("**Red Lamp** and **Blue Kettle** both fit.", "ambiguous"),
        ("Red Lamp is not a good fit for this user.", "not_a_candidate"),
        ("I would not pick Red Lamp.", "not_a_candidate"),
        ("The user won't enjoy Red Lamp.", "not_a_candidate"),
        ("Anything but Red Lamp", "not_a_candidate"),
        ("Instead of (1), the other.", "not_a_candidate"),
        ("Candidate (1) is worse than the second.", "not_a_candidate"),
        ("I would not recommend (1).", "not_a_candidate"),
    ],
)
def test_a_title_that_the_sentence_rules_out_is_not_its_choice(
    step: str, expected: int | str
) -> None:
    found = parse_recommendation(step, LAMPS)
    assert (found.reason if isinstance(found, ParseFailure) else found) == expected


@pytest.mark.parametrize(
    "step",
    [
        "Red Lamp is not only a good fit, it is bright.",
        "Although Red Lamp is dear, it fits best.",
        "Red Lamp is the best because the user doesn't like the Blue Kettle.",
        "Red Lamp, which is not cheap but fits",
        "Red Lamp, unlike Blue Kettle, is bright.",
        "Red Lamp is the best, though Blue Kettle is close.",
        "I pick Red Lamp, not Blue Kettle.",
    ],
)
def test_a_denial_of_something_else_rules_no_title_out(step: str) -> None:
    assert parse_recommendation(step, LAMPS) == 0


def test_no_word_of_a_title_is_one_of_the_prose() -> None:
    titles = ["Over the Hedge", "Nothing But Trouble", "Never Been Kissed", "Heat"]
    for index, title in enumerate(titles):
        assert parse_recommendation(f"I would recommend {title} for tonight.", titles) == index
    found = parse_recommendation("I would not recommend Heat for tonight", titles)
    assert found == ParseFailure("not_a_candidate", "only ruled out")


@pytest.mark.parametrize(
    "step",
    ["Toy Story 2 is the best fit.", "I recommend Toy Story Deluxe Edition.", "Toy Story III"],
)
def test_a_title_that_goes_on_is_another_items(step: str) -> None:
    found = parse_recommendation(step, ["Toy Story", "Heat"])
    assert found == ParseFailure("not_a_candidate", "another item's title")


@pytest.mark.parametrize(
    "step",
    [
        "Toy Story is the best fit.",
        "Toy Story 1995 is the best.",
        "Toy Story Because it fits",
        "Toy Story. Toy Story 2 is close.",
        "Toy Story\nHeat is loud.",
    ],
)
def test_a_title_before_prose_is_its_own(step: str) -> None:
    assert parse_recommendation(step, ["Toy Story", "Heat"]) == 0


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("Halo 3: ODST", "not_a_candidate"),
        ("Halo 3: ODST fits best.", "not_a_candidate"),
        ("I recommend Halo 3 ODST.", "not_a_candidate"),
        ("Halo 3, as they bought Halo 3: ODST", 0),
        ("I recommend Halo 3.", 0),
        ("Tetris fits best, as Halo 3: ODST does.", 1),
    ],
)
def test_a_longer_title_of_the_history_is_not_the_candidate_in_it(
    step: str, expected: int | str
) -> None:
    found = read_recommendation(step, ["Halo 3", "Tetris"], shown=["Halo 3: ODST", "Chess"])
    assert (found.reason if isinstance(found, ParseFailure) else found.index) == expected
