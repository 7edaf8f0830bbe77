"""The leave-one-out rule: the last item of a user is the test target, the one before it validation.

Everything before those two is training. One validation and one test target a user, so a user needs
at least three events.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

HeldOut = Literal["validation", "test"]
HELD_OUT: Final[tuple[HeldOut, ...]] = ("validation", "test")
"""The splits that hold out one event per user, in the order of the events."""

NUM_HELD_OUT = len(HELD_OUT)

MIN_EVENTS = NUM_HELD_OUT + 1
"""Minimum number of events per user: the held-out targets and one event of history."""

T = TypeVar("T")
IntArray = NDArray[np.int64]


def places_from_end(split: HeldOut) -> int:
    """Position of a split's target counted from the end of a user's events; 1 is the last."""
    return NUM_HELD_OUT - HELD_OUT.index(split)


def training_part(events: Sequence[T]) -> Sequence[T]:
    """The training events of one user, given all of them, oldest first."""
    return events[:-NUM_HELD_OUT]


def training_ends(ends: IntArray) -> IntArray:
    """Where each user's training events end, from where all of the user's events end."""
    return ends - NUM_HELD_OUT


def target_places(ends: IntArray, split: HeldOut) -> IntArray:
    """Position of each user's target of a held-out split.

    Args:
        ends: Shape (U,). One past the place of each user's last event.
        split: The held-out split.
    """
    return ends - places_from_end(split)
