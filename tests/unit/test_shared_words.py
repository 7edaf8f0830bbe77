"""Hits are counted by which candidates share a word with the history."""

from pathlib import Path

import pytest

from bench.shared_words import NOBODY, OTHERS, TARGET, group_of, load_hits, render
from msrrec.metrics.claims import Truth
from msrrec.schema import Example, Item
from tests.support.evaluation import write_evaluated_users
from tests.support.samples import output, write_samples

TITLES = {"h": "The Lamp-Shade XL", "a": "Red Lamp", "b": "The Shoe", "c": "Tent XL"}
TRUTH = Truth({}, frozenset(), {}, {key: Item(key, title) for key, title in TITLES.items()})


@pytest.mark.parametrize(
    ("target", "candidates", "group"),
    [
        ("a", ("a", "b"), TARGET),
        ("b", ("a", "b"), OTHERS),
        ("b", ("b", "c"), NOBODY),  # an article and two letters say nothing
        ("b", ("b", "gone"), NOBODY),
    ],
)
def test_a_user_is_grouped_by_the_words_of_titles(
    target: str, candidates: tuple[str, ...], group: str
) -> None:
    assert group_of(Example("e", "u", ("h",), target, candidates), TRUTH) == group


def test_the_table_has_the_hits_of_every_group(tmp_path: Path) -> None:
    dataset = write_evaluated_users(tmp_path / "dataset")  # old and right item share markup's words
    right = write_samples(tmp_path / "right", dataset, output)
    first = write_samples(tmp_path / "first", dataset, lambda slot: output(0))
    lines = render([("right", load_hits(right)), ("first", load_hits(first))]).splitlines()
    assert lines[2].endswith(f"| {TARGET} (12 users) | {OTHERS} (0 users) | {NOBODY} (0 users) |")
    every, third = "1.0000 [0.758, 1.000]", "0.3333 [0.138, 0.609]"
    assert lines[4:6] == [
        f"| right | {every} | {every} | – | – |",
        f"| first | {third} | {third} | – | – |",
    ]


def test_evaluations_of_other_users_are_refused() -> None:
    hits = {TARGET: {"e1": True}, OTHERS: {}, NOBODY: {}}
    with pytest.raises(ValueError, match="the evaluations have different users"):
        render([("m", hits), ("n", {**hits, NOBODY: {"e2": True}})])
