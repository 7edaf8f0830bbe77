"""Users' purchases cut into rows of item codes with many supervised positions.

Shapes: R = rows, T = ``length``. Code 0 is padding, on the right; items count from 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The rows of one epoch.

    Attributes:
        users: Shape (R,). User codes, from 1.
        inputs: Shape (R, T).
        targets: Shape (R, T). The item after each input; 0 where it is not supervised in this row.
    """

    users: IntArray
    inputs: IntArray
    targets: IntArray

    def __len__(self) -> int:
        return len(self.users)


class Purchases:
    """The training events of all users as codes, to be cut into rows."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        """Keep the sequences in one array; sequence n belongs to user code n + 1."""
        self.items = np.array([code for codes in sequences for code in codes], dtype=np.int64)
        self.lengths = np.array([len(codes) for codes in sequences], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths

    @property
    def num_targets(self) -> int:
        """Number of events that have a predecessor."""
        return int(np.maximum(self.lengths - 1, 0).sum())

    @cached_property
    def owned(self) -> IntArray:
        """Sorted keys of each user's items, for look-ups."""
        users = np.repeat(np.arange(1, len(self.lengths) + 1), self.lengths)
        return np.unique(owner_keys(users, self.items))

    def rows(self, length: int, rng: np.random.Generator) -> Rows:
        """Rows in which every event except a user's first is a target exactly once.

        A user with at most ``length`` targets is one row. A longer sequence is cut into rows that
        overlap by half, and only the later half of each is supervised. So a target is predicted
        from at least half of ``length`` events if it has as many before it, as at inference. The
        end of the first row is random, so over the epochs each event is predicted from histories of
        different lengths.
        """
        stride = max(1, length // 2)
        num_targets = np.maximum(self.lengths - 1, 0)
        first = np.where(
            num_targets > length, rng.integers(1, length + 1, len(num_targets)), num_targets
        )
        num_rows = (num_targets > 0) + -(-(num_targets - first) // stride)
        users = np.repeat(np.arange(len(num_rows)), num_rows)
        nth = np.arange(len(users)) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows)
        ends = np.minimum(first[users] + nth * stride, num_targets[users])
        begins = np.maximum(ends - length, 0)
        done = np.where(nth == 0, 0, first[users] + (nth - 1) * stride)
        places = begins[:, None] + np.arange(length)
        inside = places < ends[:, None]
        flat = np.where(inside, self.starts[users][:, None] + places, 0)
        last = max(len(self.items) - 1, 0)
        return Rows(
            users + 1,
            np.where(inside, self.items[flat], 0),
            np.where(inside & (places >= done[:, None]), self.items[np.minimum(flat + 1, last)], 0),
        )


def owner_keys(users: IntArray, items: IntArray) -> IntArray:
    """One number for a pair of user code and item code."""
    return np.asarray(users << 32 | items)
