"""Users' events sorted by time, and their division into examples by ``leave_one_out``.

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
        """Shape (E,). The user of each event."""
        return np.repeat(np.arange(self.num_users), self.lengths)


@dataclass(frozen=True)
class Cuts:
    """Examples as positions in ``Sequences.items``.

    Attributes:
        users: Shape (N,). The user of each example.
        begins: Shape (N,). Position where the history begins; it ends just before the target.
        targets: Shape (N,). Position of the target.
    """

    users: IntArray
    begins: IntArray
    targets: IntArray


def draw_users(num_users: int, wanted: int, seed: int) -> IntArray:
    """Codes of the sampled users, in the order of the draw; all users if ``wanted`` is 0.

    Codes must be in the order of the ids, so that the draw depends only on the seed.
    """
    drawn = np.random.default_rng([seed, 0]).permutation(num_users)
    return drawn[:wanted] if wanted else drawn


def build_sequences(users: IntArray, items: IntArray, timestamps: IntArray) -> Sequences:
    """Events sorted by user and time; equal times keep the given order.

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
        sequences: Sequences of users with at least ``MIN_EVENTS`` events each.
        history_length: Maximum number of latest events in a history.
        train_examples_per_user: Maximum number of latest training events per user that become
            targets; 0 takes all.
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
    """The numbers ``begin, begin + 1, …`` of each span, concatenated."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def histories(sequences: Sequences, cuts: Cuts, item_ids: pa.Array) -> pa.ListArray:
    """The history of each example as item ids, oldest first."""
    lengths = cuts.targets - cuts.begins
    codes = sequences.items[spans(cuts.begins, lengths)]
    return lists(np.concatenate([[0], np.cumsum(lengths)]), pick(item_ids, codes))
