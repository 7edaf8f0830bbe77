"""The candidate that most training users bought."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from msrrec.data.dataset import Dataset
from msrrec.schema import Example


def choose_popular(dataset: Dataset, examples: Sequence[Example], seed: int) -> list[str]:
    """The candidate with the most buyers in the training split, one an example.

    Ties, among them items that nobody bought in training, fall to a fixed random order of the
    items, so that neither ids nor slots decide.
    """
    counts = count_buyers(dataset.examples("train"))

    def rank(item_id: str) -> tuple[int, float]:
        return counts[item_id], random.Random(f"{seed}:{item_id}").random()

    return [max(example.candidates, key=rank) for example in examples]


def count_buyers(examples: Sequence[Example]) -> Counter[str]:
    """Users a item, from histories and targets; a user's examples overlap and count once."""
    bought: defaultdict[str, set[str]] = defaultdict(set)
    for example in examples:
        bought[example.user_id].update(example.history, [example.target])
    return Counter(item_id for items in bought.values() for item_id in items)
