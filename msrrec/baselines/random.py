"""A candidate at random: what every system has to beat."""

import random
from collections.abc import Sequence

from msrrec.data.dataset import Dataset
from msrrec.schema import Example


def choose_random(dataset: Dataset, examples: Sequence[Example], seed: int) -> list[str]:
    """One candidate an example, uniform, decided by the seed and the example id alone."""
    del dataset  # the same signature for all baselines
    return [random.Random(f"{seed}:{e.example_id}").choice(e.candidates) for e in examples]
