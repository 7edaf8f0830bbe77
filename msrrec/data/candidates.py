"""Candidate sets: the target, and negatives that the user never bought in any split.

To a reader two items with equal titles are the same. So the title of a negative also differs from
all titles that the user bought and from the other candidates'.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrrec.data.sequences import Cuts, Sequences
from msrrec.errors import DataError

IntArray = NDArray[np.int64]

Propose = Callable[[IntArray, np.random.Generator], IntArray]
"""A way to draw negatives: one item for each target, in an array of the same shape."""

_MAX_PROPOSALS = 64
"""Number of redraws with a non-uniform ``Propose``. A small category may have too few items, so
what is missing after them is drawn uniformly."""

_ROWS = 1 << 16
"""Candidate sets that are checked at once, so that checks take some megabytes for any number."""


class CandidateSampler:
    """Draws negatives from the catalogue, uniformly by default."""

    def __init__(
        self,
        sequences: Sequences,
        titles: IntArray,
        num_negatives: int,
        propose: Propose | None = None,
    ) -> None:
        """Index which items each user bought.

        Args:
            sequences: All events of the users.
            titles: Shape (I,). Code of each item's title, equal for equal titles.
            num_negatives: Number of negatives per candidate set.
            propose: How to draw instead of uniformly.
        """
        self._propose = propose or self._uniformly
        self._titles, self._num_negatives = titles, num_negatives
        self._num_titles = int(titles.max(initial=-1)) + 1
        touched = self._key(sequences.users, sequences.items)
        self._touched = np.unique(touched)
        self._items = sequences.items

    def check(self, user_ids: Sequence[Any], setting: str = "data.num_negatives") -> None:
        """Check that enough items are left for the negatives of every user.

        Args:
            user_ids: Ids of the users, in the order of the sequences; a list or an Arrow array.
            setting: Name of the setting for the number of negatives.

        Raises:
            DataError: If a user has bought too many of the items; names the user.
        """
        owners = self._touched // self._num_titles
        left = self._num_titles - np.bincount(owners, minlength=len(user_ids))
        if (left < self._num_negatives).any():
            user = int(left.argmin())
            name = str(user_ids[user])
            raise DataError(
                f"user {name!r}: leaves {left[user]} of {self._num_titles} items with "
                f"different titles as negatives; expected at least {self._num_negatives}, so "
                f"lower {setting} or raise data.num_users"
            )

    def draw(self, cuts: Cuts, rng: np.random.Generator) -> IntArray:
        """Candidates of each example as item codes.

        Targets are spread evenly over positions, also among the first examples, however many are
        taken.

        Returns:
            Shape (N, num_negatives + 1).
        """
        num_examples, width = len(cuts.targets), self._num_negatives + 1
        slots = balanced_slots(num_examples, width, rng)
        targets = self._items[cuts.targets]
        negatives = self._draw_negatives(cuts.users, targets, rng)
        candidates = np.empty((num_examples, width), dtype=np.int64)
        is_target = np.arange(width) == slots[:, None]
        candidates[is_target] = targets
        candidates[~is_target] = negatives.ravel()
        return candidates

    def _draw_negatives(
        self, users: IntArray, targets: IntArray, rng: np.random.Generator
    ) -> IntArray:
        """Draw all negatives; redraw those that the user bought or that repeat another."""
        targets = np.broadcast_to(targets[:, None], (len(users), self._num_negatives))
        negatives = self._propose(targets, rng)
        open_rows = np.arange(len(users))
        num_draws = 0
        while len(open_rows):
            rows, columns = self._find_rejected(users, negatives, open_rows)
            num_draws += 1
            propose = self._propose if num_draws <= _MAX_PROPOSALS else self._uniformly
            negatives[rows, columns] = propose(targets[rows, columns], rng)
            open_rows = np.unique(rows)
        return negatives

    def _find_rejected(
        self, users: IntArray, negatives: IntArray, open_rows: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Row and column of each negative that must be drawn again, among some rows, in order."""
        rows, columns = [], []
        for begin in range(0, len(open_rows), _ROWS):
            part = open_rows[begin : begin + _ROWS]
            row, column = np.nonzero(self._rejected(users[part], negatives[part]))
            rows.append(part[row])
            columns.append(column)
        return np.concatenate(rows), np.concatenate(columns)

    def _uniformly(self, targets: IntArray, rng: np.random.Generator) -> IntArray:
        return rng.integers(len(self._titles), size=targets.shape)

    def _rejected(self, users: IntArray, negatives: IntArray) -> NDArray[np.bool_]:
        rejected = self._is_touched(users[:, None], negatives)
        titles = self._titles[negatives]
        for column in range(1, negatives.shape[1]):
            rejected[:, column] |= (titles[:, :column] == titles[:, column, None]).any(axis=1)
        return rejected

    def _is_touched(self, users: IntArray, items: IntArray) -> NDArray[np.bool_]:
        keys = self._key(users, items)
        places = np.searchsorted(self._touched, keys)
        places = np.minimum(places, len(self._touched) - 1)
        return np.asarray(self._touched[places] == keys)

    def _key(self, users: IntArray, items: IntArray) -> IntArray:
        """One number for a pair of user and title."""
        return np.asarray(users * self._num_titles + self._titles[items])


def balanced_slots(num_examples: int, width: int, rng: np.random.Generator) -> IntArray:
    """A random position for each example's target, in [0, width); shape (N,).

    Each block of ``width`` examples has every position once, so that the first n examples have each
    of them n / width times, to within one.
    """
    num_blocks = -(-num_examples // width)
    blocks = rng.permutation(num_blocks * width).reshape(-1, width)
    for begin in range(0, num_blocks, _ROWS):
        some = blocks[begin : begin + _ROWS]
        some[:] = np.argsort(np.argsort(some, axis=1), axis=1)
    return np.asarray(blocks.ravel()[:num_examples])
