"""Users' events in time, and their cut into examples by ``leave_one_out``.

Events with equal timestamps keep the order of the input.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msrrec.data.arrow import lists, pick
from msrrec.data.leave_one_out import HELD_OUT, MIN_EVENTS, target_places, training_ends
from msrrec.schema import Split

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """All events of all users, one user after the other, oldest first.

    Attributes:
        items: Shape (E,). Item codes.
        starts: Shape (U + 1,). User u owns ``items[starts[u]:starts[u + 1]]``.
    """

    items: IntArray
    starts: IntArray

    @property
    def num_users(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> IntArray:
        """Shape (U,). Events of each user."""
        return np.diff(self.starts)

    @property
    def users(self) -> IntArray:
        """Shape (E,). Whose event each is."""
        return np.repeat(np.arange(self.num_users), self.lengths)


@dataclass(frozen=True)
class Cuts:
    """Examples as places in ``Sequences.items``.

    Attributes:
        users: Shape (N,). Whose example each is.
        begins: Shape (N,). Where the history begins; it ends just before the target.
        targets: Shape (N,). Where the target stands.
    """

    users: IntArray
    begins: IntArray
    targets: IntArray


def draw_users(num_users: int, wanted: int, seed: int) -> IntArray:
    """Codes of the users drawn, in the order of the draw; all of them when ``wanted`` is 0.

    The codes must follow the order of the ids, so that the draw depends on nothing but the seed.
    """
    drawn = np.random.default_rng([seed, 0]).permutation(num_users)
    return drawn[:wanted] if wanted else drawn


def build_sequences(users: IntArray, items: IntArray, timestamps: IntArray) -> Sequences:
    """Events sorted by user and time, ties in the order given.

    Args:
        users: Shape (E,). Codes from 0 without a gap.
        items: Shape (E,). Codes.
        timestamps: Shape (E,).
    """
    order = np.lexsort((timestamps, users))
    starts = np.concatenate([[0], np.cumsum(np.bincount(users))])
    return Sequences(items[order], starts)


def cut_sequences(
    sequences: Sequences, history_length: int, train_examples_per_user: int
) -> dict[Split, Cuts]:
    """The examples of each split, user by user.

    Args:
        sequences: Each user with at least ``MIN_EVENTS`` events.
        history_length: Latest events kept of each history.
        train_examples_per_user: Latest training events with a history that become targets; 0 takes
            all.
    """
    assert sequences.lengths.min(initial=MIN_EVENTS) >= MIN_EVENTS
    every_user, ends = np.arange(sequences.num_users), sequences.starts[1:]
    trainable = sequences.lengths - MIN_EVENTS
    if train_examples_per_user:
        trainable = np.minimum(trainable, train_examples_per_user)
    train_users = np.repeat(every_user, trainable)
    targets: dict[Split, tuple[IntArray, IntArray]] = {
        "train": (train_users, spans(training_ends(ends) - trainable, trainable))
    }
    targets |= {split: (every_user, target_places(ends, split)) for split in HELD_OUT}
    return {
        split: Cuts(u, np.maximum(sequences.starts[u], t - history_length), t)
        for split, (u, t) in targets.items()
    }


def spans(begins: IntArray, lengths: IntArray) -> IntArray:
    """``begin, begin + 1, …`` of each span, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def histories(sequences: Sequences, cuts: Cuts, item_ids: pa.Array) -> pa.ListArray:
    """The history of each example as item ids, oldest first."""
    lengths = cuts.targets - cuts.begins
    codes = sequences.items[spans(cuts.begins, lengths)]
    return lists(np.concatenate([[0], np.cumsum(lengths)]), pick(item_ids, codes))
