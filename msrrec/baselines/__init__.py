"""Systems to compare with, one file each, on the same frozen examples and in the same rows.

A baseline is a function of dataset, examples and seed that returns one candidate's item id an
example.
"""

from collections.abc import Callable, Sequence

from msrrec.baselines.popularity import choose_popular
from msrrec.baselines.random import choose_random
from msrrec.data.dataset import Dataset
from msrrec.schema import Example

Baseline = Callable[[Dataset, Sequence[Example], int], list[str]]

BASELINES: dict[str, Baseline] = {"random": choose_random, "popularity": choose_popular}
