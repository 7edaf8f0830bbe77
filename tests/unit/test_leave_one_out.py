"""The one rule by which a user's events become training, validation and test."""

import re
from pathlib import Path

import numpy as np

from msrrec.data.leave_one_out import (
    HELD_OUT,
    MIN_EVENTS,
    places_from_end,
    target_places,
    training_ends,
    training_part,
)

ROOT = Path(__file__).parents[2]


def test_the_last_event_is_the_test_target_and_the_one_before_it_the_validation_target() -> None:
    events = ["a", "b", "c", "d", "e"]
    assert training_part(events) == ["a", "b", "c"]
    assert events[-places_from_end("validation")] == "d"
    assert events[-places_from_end("test")] == "e"
    assert HELD_OUT == ("validation", "test")
    assert MIN_EVENTS == 3


def test_the_places_of_many_users_follow_from_where_their_events_end() -> None:
    ends = np.array([3, 7])  # users with the events 0 to 2 and 3 to 6
    assert training_ends(ends).tolist() == [1, 5]
    assert target_places(ends, "validation").tolist() == [1, 5]
    assert target_places(ends, "test").tolist() == [2, 6]


def test_nobody_else_spells_the_rule() -> None:
    spelled = re.compile(r"\[:-2\]|\bends - [12]\b|HELD_OUT\s*=|-\s*_FROM_END")
    for folder in ("msrrec", "serve", "jobs", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "leave_one_out.py":
                assert not spelled.search(path.read_text()), path
