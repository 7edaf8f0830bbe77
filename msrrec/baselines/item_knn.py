"""Item-kNN: prefers candidates bought by the same users as the items of the history.

Cosine between the items' columns of the users × items matrix (Sarwar et al. 2001), shrunk towards 0
if few users bought both.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from msrrec.baselines.interface import Facts, mean_reciprocal_rank
from msrrec.baselines.purchases import training_purchases
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.schema import Example

SHRINKAGES = (0.0, 3.0, 10.0, 30.0)
"""Values tried for the term added to the cosine's denominator; validation picks one."""


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


def _shrink(together: csr_array, shrinkage: float) -> csr_array:
    """The cosine of each pair, with ``shrinkage`` in its denominator; 0 on the diagonal."""
    buyers = np.sqrt(together.diagonal())
    pairs = together.tocoo()
    values = pairs.data / (buyers[pairs.row] * buyers[pairs.col] + shrinkage)
    values[pairs.row == pairs.col] = 0.0
    return csr_array((values, (pairs.row, pairs.col)), shape=together.shape)
