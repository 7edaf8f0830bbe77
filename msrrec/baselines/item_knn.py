"""Item-kNN: prefers candidates bought by the same users as the items of the history.

Cosine between the items' columns of the users × items matrix (Sarwar et al. 2001), shrunk towards 0
if few users bought both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.sparse import csr_array

from msrrec.baselines.choosing import choose_settings, draw_settings
from msrrec.baselines.interface import Facts, mean_reciprocal_rank
from msrrec.baselines.purchases import training_purchases
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.retrieval.counts import (
    PurchaseCodes,
    count_together,
    keep_neighbours,
    shrink_cosine,
)
from msrrec.schema import Example

SHRINKAGES = (0.0, 3.0, 10.0, 30.0)
"""Values tried for the term added to the cosine's denominator; validation picks one."""


SPACE = {"shrinkage": SHRINKAGES, "neighbours": (None, 10, 30, 100, 300)}
"""Values that ``item-knn-tuned`` tries."""


@dataclass(frozen=True)
class Neighbourhood:
    """The term added to the cosine's denominator, and how many similar items count of each item.

    ``neighbours`` is None if all count.
    """

    shrinkage: float = 10.0
    neighbours: int | None = 100


class ItemKnn:
    """Scores are sums of similarities to the items of the history."""

    def __init__(self, config: RunConfig) -> None:
        del config
        self._codes: dict[str, int] = {}
        self._similarity = csr_array((0, 0))

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Count which items were bought by the same users, and choose the shrinkage."""
        del folder
        self._codes = {item_id: n for n, item_id in enumerate(dataset.items)}
        together = self._count_together(dataset)
        examples = dataset.examples("validation")
        found = {}
        for shrinkage in SHRINKAGES:
            self._similarity = shrink_cosine(together, shrinkage)
            found[shrinkage] = mean_reciprocal_rank(examples, self.score(examples))
        best = max(SHRINKAGES, key=lambda s: found[s])
        self._similarity = shrink_cosine(together, best)
        return {"trials": len(found), "shrinkage": best, "validation_mrr": found[best]}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Sum of each candidate's similarities to the items of the history."""
        return [self._score(example) for example in examples]

    def _score(self, example: Example) -> list[float]:
        history = [self._codes[item_id] for item_id in example.history]
        candidates = [self._codes[item_id] for item_id in example.candidates]
        block = self._similarity[history][:, candidates]
        return [float(value) for value in block.sum(axis=0)]

    def _count_together(self, dataset: Dataset) -> csr_array:
        bought = training_purchases(dataset).values()
        codes = ([self._codes[item_id] for item_id in items] for items in bought)
        return count_together(PurchaseCodes.collect(codes, len(self._codes)))


class TunedItemKnn(ItemKnn):
    """Item-kNN whose shrinkage and number of neighbours validation chooses."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        count, seed = config.baselines.trials, config.inference.seed
        self._trials = draw_settings(Neighbourhood(), SPACE, count, seed)

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Count which items were bought by the same users, and choose the settings."""
        del folder
        self._codes = {item_id: n for n, item_id in enumerate(dataset.items)}
        together = self._count_together(dataset)

        def score(trial: Neighbourhood, examples: Sequence[Example]) -> list[list[float]]:
            self._similarity = keep_neighbours(
                shrink_cosine(together, trial.shrinkage), trial.neighbours
            )
            return self.score(examples)

        best, facts = choose_settings(self._trials, dataset, score)
        score(best, ())
        return facts
