"""Popularity: prefers the candidate that most training users bought."""

from collections import Counter
from collections.abc import Sequence

from msrrec.baselines.interface import Facts
from msrrec.baselines.purchases import iter_training_purchases
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.schema import Example


class Popularity:
    """Scores are numbers of buyers in the training split."""

    def __init__(self, config: RunConfig) -> None:
        del config
        self._buyers: Counter[str] = Counter()

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Count the buyers of every item."""
        del folder
        self._buyers = count_training_buyers(dataset)
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Number of buyers of each candidate."""
        return [[float(self._buyers[item]) for item in e.candidates] for e in examples]


def count_training_buyers(dataset: Dataset) -> Counter[str]:
    """Number of users who bought each item in training; repeated purchases count once.

    Users are read one after the other and not held.
    """
    return Counter(item_id for items in iter_training_purchases(dataset) for item_id in set(items))
