"""How sure a figure is: intervals of shares, and paired tests between systems.

Systems are judged on the same users, so two of them are compared user by user and not by whether
their intervals overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, chisquare

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A share of cases with its 95% Wilson interval, all in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two systems on the same users.

    Attributes:
        first_only: Users that only the first system got right.
        second_only: Users that only the second one got right.
        p_value: Exact McNemar, two-sided; 1 where they never differ.
    """

    first_only: int
    second_only: int
    p_value: float


def wilson(count: int, total: int) -> Share | None:
    """The share ``count / total``; None where there are no cases."""
    if total == 0:
        return None
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count / total, float(interval.low), float(interval.high))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Whether two systems' hits differ, from the users on whom they disagree.

    Raises:
        ValueError: If the two have different lengths.
    """
    pairs = list(zip(first, second, strict=True))
    first_only = sum(a and not b for a, b in pairs)
    second_only = sum(b and not a for a, b in pairs)
    differing = first_only + second_only
    p_value = float(binomtest(first_only, differing).pvalue) if differing else 1.0
    return Paired(first_only, second_only, p_value)


def uniform_p_value(counts: Sequence[int]) -> float | None:
    """Chi-square test that all slots are equally likely; None where nothing was counted."""
    return float(chisquare(counts).pvalue) if sum(counts) else None
