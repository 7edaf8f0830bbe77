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
"""The splits that hold one event of each user out, in the order of the events."""

NUM_HELD_OUT = len(HELD_OUT)

MIN_EVENTS = NUM_HELD_OUT + 1
"""The held-out targets, and one event of history for the first of them."""

T = TypeVar("T")
IntArray = NDArray[np.int64]


def places_from_end(split: HeldOut) -> int:
    """How far from the end of a user's events a split's target stands: 1 is the last event."""
    return NUM_HELD_OUT - HELD_OUT.index(split)


def training_part(events: Sequence[T]) -> Sequence[T]:
    """The training events of one user, given all of them, oldest first."""
    return events[:-NUM_HELD_OUT]


def training_ends(ends: IntArray) -> IntArray:
    """Where each user's training events end, given where all their events end."""
    return ends - NUM_HELD_OUT


def target_places(ends: IntArray, split: HeldOut) -> IntArray:
    """Where each user's target of a held-out split stands.

    Args:
        ends: Shape (U,). One past the place of each user's last event.
        split: Whose target.
    """
    return ends - places_from_end(split)
