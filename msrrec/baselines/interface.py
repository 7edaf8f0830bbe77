"""The interface of baselines, and how scores become a choice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from msrrec.data.dataset import Dataset
from msrrec.metrics.ranking import reciprocal_ranks, target_rank
from msrrec.schema import Example

Facts = dict[str, object]
"""Facts about the fit for reports: chosen settings, trials, counts; JSON values only."""


@dataclass(frozen=True)
class WrittenChoice:
    """The text that a system wrote for an example, and the candidate that it names.

    Attributes:
        index: The 0-based candidate that it names; None if it names none or several.
    """

    text: str
    index: int | None
    num_tokens: int


class Fittable(Protocol):
    """A system that is fitted on a dataset."""

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Learn from the training split and choose settings on validation.

        Args:
            dataset: Its test split must not be read here.
            folder: Folder for work in progress, so that a killed run can be resumed.
        """
        ...


class Baseline(Fittable, Protocol):
    """A system that scores every candidate."""

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """One score per candidate of each example, in the frozen order; higher is better."""
        ...


@runtime_checkable
class Writer(Fittable, Protocol):
    """A system that writes its choice as text, which may name no candidate."""

    def write(self, examples: Sequence[Example]) -> list[WrittenChoice]:
        """The text and choice for each example."""
        ...


@runtime_checkable
class Savable(Protocol):
    """A system whose fit is kept for other uses."""

    def save(self, dataset: Dataset, folder: str) -> None:
        """Write what was learned into a folder."""
        ...


def choose(examples: Sequence[Example], scores: Sequence[Sequence[float]], seed: int) -> list[str]:
    """The candidate with the highest score of each example.

    Ties are broken by a fixed random order of the items, so neither ids nor positions decide.
    """

    def tie_key(item_id: str) -> float:
        return random.Random(f"{seed}:{item_id}").random()

    return [
        max(zip(found, map(tie_key, e.candidates), e.candidates, strict=True))[2]
        for e, found in zip(examples, scores, strict=True)
    ]


def mean_reciprocal_rank(examples: Sequence[Example], scores: Sequence[Sequence[float]]) -> float:
    """MRR among the frozen candidates, for choosing settings on validation; 0 without examples.

    It is less noisy than HitRatio@1 for few users. Ties count against the target.
    """
    ranks = [target_rank(e, found) for e, found in zip(examples, scores, strict=True)]
    return sum(reciprocal_ranks(ranks)) / max(len(ranks), 1)
