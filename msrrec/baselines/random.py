"""Random: a uniformly chosen candidate, the lower bound for every system."""

import random
from collections.abc import Sequence

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.schema import Example


class Random:
    """Uniform scores that depend only on the seed and the example id."""

    def __init__(self, config: RunConfig) -> None:
        self._seed = config.inference.seed

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Do nothing, as there is nothing to learn."""
        del dataset, folder
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """One number in [0, 1) per candidate."""
        draws = (random.Random(f"{self._seed}:{e.example_id}") for e in examples)
        return [
            [draw.random() for _ in e.candidates] for e, draw in zip(examples, draws, strict=True)
        ]
