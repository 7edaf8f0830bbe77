"""A candidate at random: what every system has to beat."""

import random
from collections.abc import Sequence

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.schema import Example


class Random:
    """Uniform scores, decided by the seed and the example id alone."""

    def __init__(self, config: RunConfig) -> None:
        self._seed = config.inference.seed

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Nothing to learn."""
        del dataset, folder
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """One number in [0, 1) a candidate."""
        draws = (random.Random(f"{self._seed}:{e.example_id}") for e in examples)
        return [
            [draw.random() for _ in e.candidates] for e, draw in zip(examples, draws, strict=True)
        ]
