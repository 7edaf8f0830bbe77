"""Which categories are bought after which, where that foretells purchases better than habit does.

Customers of some shops come back for what they bought before, those of others go on to something
else: the next course after a book, oil after a pan. Training histories tell which shop it is.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msrrec.metrics.statistics import mcnemar

_P_VALUE = 0.01
"""Chance below which the better guess is not taken for luck."""


@dataclass(frozen=True)
class Followers:
    """Categories by what is bought directly after them.

    Attributes:
        counts: For each category how often which category came next.
    """

    counts: Mapping[str, Counter[str]]

    def ranked(self, category: str) -> list[str]:
        """The categories that follow, the most frequent first; equal ones by name."""
        counts = self.counts.get(category, Counter())
        return sorted(counts, key=lambda other: (-counts[other], other))

    def share(self, category: str, following: str) -> float:
        """The share of purchases after a category that are of another, between 0 and 1."""
        counts = self.counts.get(category, Counter())
        return counts[following] / counts.total() if counts else 0.0


def most_frequent(labels: Iterable[str]) -> list[str]:
    """Labels by count; the one bought later comes first if counts are equal."""
    listed = list(labels)
    latest = {label: n for n, label in enumerate(listed)}
    counts = Counter(listed)
    return sorted(counts, key=lambda label: (-counts[label], -latest[label]))


def learn_followers(histories: Iterable[Sequence[str]]) -> Followers | None:
    """What follows what in histories of categories, oldest purchase first.

    Returns:
        None unless the most frequent follower of a history's last but one category is its last one
        for more histories than the category that was bought most before it, by an exact test. The
        last step of a history does not count for its own guess.
    """
    known = [tuple(history) for history in histories if len(history) > 1]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for history in known:
        for before, after in pairwise(history):
            counts[before][after] += 1
    followers = Followers(dict(counts))
    by_habit = [most_frequent(h[:-1])[0] == h[-1] for h in known]
    by_order = [_foretells(followers, history) for history in known]
    found = mcnemar(by_order, by_habit)
    return followers if found.difference > 0 and found.p_value < _P_VALUE else None


def _foretells(followers: Followers, history: Sequence[str]) -> bool:
    """Whether the last category is the most frequent follower in all other steps."""
    before, last = history[-2:]
    counts = Counter(followers.counts[before])
    counts[last] -= 1
    return counts[last] > 0 and Followers({before: counts}).ranked(before)[0] == last
