"""Item-kNN: prefers candidates bought by the same users as the items of the history.

Cosine between the items' columns of the users × items matrix (Sarwar et al. 2001), shrunk towards 0
if few users bought both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from msrrec.baselines.choosing import choose_settings, draw_settings
from msrrec.baselines.interface import Facts, mean_reciprocal_rank
from msrrec.baselines.purchases import training_purchases
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
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
        together = self._count_together(list(training_purchases(dataset).values()))
        examples = dataset.examples("validation")
        found = {}
        for shrinkage in SHRINKAGES:
            self._similarity = _shrink(together, shrinkage)
            found[shrinkage] = mean_reciprocal_rank(examples, self.score(examples))
        best = max(SHRINKAGES, key=lambda s: found[s])
        self._similarity = _shrink(together, best)
        return {"trials": len(found), "shrinkage": best, "validation_mrr": found[best]}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Sum of each candidate's similarities to the items of the history."""
        return [self._score(example) for example in examples]

    def _score(self, example: Example) -> list[float]:
        history = [self._codes[item_id] for item_id in example.history]
        candidates = [self._codes[item_id] for item_id in example.candidates]
        block = self._similarity[history][:, candidates]
        return [float(value) for value in block.sum(axis=0)]

    def _count_together(self, purchases: Sequence[Sequence[str]]) -> csr_array:
        """Shape (I, I). Users who bought both items; the diagonal has each item's buyers."""
        users = np.repeat(np.arange(len(purchases)), [len(set(items)) for items in purchases])
        items = [self._codes[item_id] for bought in purchases for item_id in sorted(set(bought))]
        shape = (len(purchases), len(self._codes))
        bought = csr_array((np.ones(len(items)), (users, items)), shape=shape)
        return csr_array(bought.T @ bought)


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
        together = self._count_together(list(training_purchases(dataset).values()))

        def score(trial: Neighbourhood, examples: Sequence[Example]) -> list[list[float]]:
            self._similarity = keep_neighbours(_shrink(together, trial.shrinkage), trial.neighbours)
            return self.score(examples)

        best, facts = choose_settings(self._trials, dataset, score)
        score(best, ())
        return facts


def keep_neighbours(similarity: csr_array, count: int | None) -> csr_array:
    """The ``count`` highest values of each row, and 0 elsewhere; None keeps all."""
    if count is None:
        return similarity
    kept = similarity.copy()
    for begin, end in pairwise(kept.indptr):
        row = kept.data[begin:end]
        if len(row) > count:
            row[np.argsort(-row, kind="stable")[count:]] = 0.0
    kept.eliminate_zeros()
    return kept


def _shrink(together: csr_array, shrinkage: float) -> csr_array:
    """The cosine of each pair, with ``shrinkage`` in its denominator; 0 on the diagonal."""
    buyers = np.sqrt(together.diagonal())
    pairs = together.tocoo()
    values = pairs.data / (buyers[pairs.row] * buyers[pairs.col] + shrinkage)
    values[pairs.row == pairs.col] = 0.0
    return csr_array((values, (pairs.row, pairs.col)), shape=together.shape)
