"""All candidates in order: the recommended one, then the others by likelihood."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from msrrec.inference.fusion import Recommendation, candidate_probabilities
from msrrec.metrics.calibration import temper

_LEAST = 1e-300
"""Probabilities below it count as this much, as no logarithm is left of 0."""


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate of a ranking.

    Attributes:
        index: Its 0-based place among the candidates.
        score: Its probability after the reasoning, from 0 to 1: the mean over the sides. The scores
            of all candidates sum to 1.
    """

    index: int
    score: float


def mean_probabilities(recommendation: Recommendation) -> tuple[float, ...]:
    """Probability of each candidate, the mean over all sides; empty if not measured."""
    found = [candidate_probabilities(side) for side in recommendation.sides]
    measured = [values for values in found if values]
    return tuple(math.fsum(values) / len(measured) for values in zip(*measured, strict=True))


def log_probabilities(probabilities: Sequence[float]) -> list[float]:
    """The logarithm of each, of 0 a very small one."""
    return [math.log(max(value, _LEAST)) for value in probabilities]


def confidence(recommendation: Recommendation, temperature: float | None) -> float | None:
    """How likely the recommended item is to be right, from 0 to 1.

    None without a temperature, a recommended item, or likelihoods.

    Args:
        recommendation: The decision.
        temperature: What validation taught, see ``metrics.calibration.fit_temperature``.
    """
    scores = mean_probabilities(recommendation)
    if temperature is None or recommendation.index is None or not scores:
        return None
    return temper(log_probabilities(scores), temperature)[recommendation.index]


def rank_candidates(recommendation: Recommendation) -> tuple[RankedCandidate, ...]:
    """Every candidate, best first; empty if likelihoods were not measured.

    The recommended candidate is first whatever its score, as fusion decides and not the likelihood;
    a recommendation that names none leaves the order to the scores. Equal scores keep the
    candidates' order.
    """
    scores = mean_probabilities(recommendation)
    order = sorted(range(len(scores)), key=lambda i: (i != recommendation.index, -scores[i]))
    return tuple(RankedCandidate(i, scores[i]) for i in order)
