"""Coverage: how often the target is among the candidates that retrieval found."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msrrec.metrics.ranking import BUYERS, Groups, GroupTally
from msrrec.metrics.statistics import Share, wilson
from msrrec.schema import Example

CUTOFFS = (1, 5, 10, 20, 50, 100, 200)
"""Values of k for coverage@k, besides the number of candidates."""


@dataclass(frozen=True)
class Coverage:
    """What retrieval found, before any system chose.

    Attributes:
        num_users: Number of all users.
        num_retrieved: Number of candidates that were asked for.
        at: Share of users whose target is among the first k candidates, by k.
        popularity: Users grouped by the number of training users of their target; ``hit_ratio`` is
            the share whose target was found at all. Nobody bought a cold target.
    """

    num_users: int
    num_retrieved: int
    at: dict[int, Share]
    popularity: Groups


class CoverageTally:
    """What ``Coverage`` needs of the users so far: counts alone."""

    def __init__(
        self, buyers: Mapping[str, int], num_retrieved: int, *, is_ordered: bool = True
    ) -> None:
        """Begin without users.

        Args:
            buyers: Number of training users of every item.
            num_retrieved: Number of candidates that were asked for.
            is_ordered: Whether candidates stand in the order of retrieval; if not, only the
                coverage of whole lists is known.
        """
        self._num_retrieved, self._slots = num_retrieved, Counter[int]()
        self._cutoffs = [k for k in CUTOFFS if is_ordered and k < num_retrieved]
        self._popularity = GroupTally(lambda e: buyers.get(e.target, 0), BUYERS)

    def add(self, examples: Sequence[Example]) -> None:
        """Add users."""
        slots = [example.target_slot for example in examples]
        self._slots.update(slots)
        self._popularity.add(examples, [slot >= 0 for slot in slots])

    def result(self) -> Coverage:
        """The coverage of all users that were added, of whom there is at least one."""
        last, num_users = self._num_retrieved, self._slots.total()
        found = {}
        for k in (*self._cutoffs, last):
            share = wilson(sum(n for slot, n in self._slots.items() if 0 <= slot < k), num_users)
            assert share is not None  # there is at least one user
            found[k] = share
        return Coverage(num_users, last, found, self._popularity.result())
