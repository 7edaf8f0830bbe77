"""What every baseline takes and gives, and how scores become a choice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from msrrec.data.dataset import Dataset
from msrrec.metrics.ranking import reciprocal_ranks, target_rank
from msrrec.schema import Example

Facts = dict[str, object]
"""What a report shows of the fit: chosen settings, trials, counts; JSON values only."""


@dataclass(frozen=True)
class WrittenChoice:
    """The text that a system wrote for an example, and the candidate that it names.

    Attributes:
        index: The 0-based candidate that it names; None where it names none or several.
    """

    text: str
    index: int | None
    num_tokens: int


class Fittable(Protocol):
    """One system, made from the settings of a run."""

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Learn from the training split, choose settings on validation; test is not looked at.

        Args:
            dataset: Its test split must not be read here.
            folder: Where work in progress may be kept, so that a killed run goes on.
        """
        ...


class Baseline(Fittable, Protocol):
    """A system that scores."""

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """One number a candidate of each example, in the frozen order; higher is better."""
        ...


@runtime_checkable
class Writer(Fittable, Protocol):
    """A system that writes its choice, which may be no candidate."""

    def write(self, examples: Sequence[Example]) -> list[WrittenChoice]:
        """The text and choice for each example."""
        ...


def choose(examples: Sequence[Example], scores: Sequence[Sequence[float]], seed: int) -> list[str]:
    """The candidate with the highest score of each example.

    Ties fall to a fixed random order of the items, so that neither ids nor slots decide.
    """

    def tie_key(item_id: str) -> float:
        return random.Random(f"{seed}:{item_id}").random()

    return [
        max(zip(found, map(tie_key, e.candidates), e.candidates, strict=True))[2]
        for e, found in zip(examples, scores, strict=True)
    ]


def mean_reciprocal_rank(examples: Sequence[Example], scores: Sequence[Sequence[float]]) -> float:
    """MRR among the frozen candidates, by which settings are chosen on validation; 0 without any.

    Less noisy than HitRatio@1 where users are few; ties count against the target.
    """
    ranks = [target_rank(e, found) for e, found in zip(examples, scores, strict=True)]
    return sum(reciprocal_ranks(ranks)) / max(len(ranks), 1)
