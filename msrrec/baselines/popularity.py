"""The candidate that most training users bought."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.schema import Example


class Popularity:
    """Scores are the buyers of the training split."""

    def __init__(self, config: RunConfig) -> None:
        del config
        self._buyers: Counter[str] = Counter()

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Count."""
        del folder
        self._buyers = count_buyers(dataset.examples("train"))
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Buyers of each candidate."""
        return [[float(self._buyers[item]) for item in e.candidates] for e in examples]


def count_buyers(examples: Sequence[Example]) -> Counter[str]:
    """Users a item, from histories and targets; a user's examples overlap and count once."""
    bought: defaultdict[str, set[str]] = defaultdict(set)
    for example in examples:
        bought[example.user_id].update(example.history, [example.target])
    return Counter(item_id for items in bought.values() for item_id in items)
