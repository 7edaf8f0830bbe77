"""Choosing a baseline's settings on validation, with as many trials as sequential systems have."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from msrrec.baselines.interface import Facts, mean_reciprocal_rank
from msrrec.data.dataset import Dataset
from msrrec.schema import Example

Settings = TypeVar("Settings")
Value = float | int | str | bool | None


def draw_settings(
    usual: Settings, space: Mapping[str, Sequence[Value]], count: int, seed: int
) -> list[Settings]:
    """The usual settings, then random ones, all different, as many as there are at most.

    Args:
        usual: A frozen dataclass.
        space: The values that each of its fields is drawn from.
        count: Number of settings wanted.
        seed: Seed of the draw.
    """
    rng, found = random.Random(seed), [usual]
    for _ in range(1000):
        if len(found) >= count:
            break
        drawn = type(usual)(**{name: rng.choice(values) for name, values in space.items()})
        if drawn not in found:
            found.append(drawn)
    return found


def choose_settings(
    trials: Sequence[Settings],
    dataset: Dataset,
    score: Callable[[Settings, Sequence[Example]], list[list[float]]],
) -> tuple[Settings, Facts]:
    """The settings with the best MRR among the frozen candidates of validation, and the facts.

    The first of equally good ones is taken. The test split is not read.
    """
    examples = dataset.examples("validation")
    figures = [mean_reciprocal_rank(examples, score(trial, examples)) for trial in trials]
    best = max(range(len(trials)), key=lambda n: (figures[n], -n))
    facts: Facts = {"trials": len(trials), **vars(trials[best]), "validation_mrr": figures[best]}
    return trials[best], facts
