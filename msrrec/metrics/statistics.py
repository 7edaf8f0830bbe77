"""Statistical certainty: intervals of shares, and paired tests between systems.

Systems are judged on the same users, so they are compared user by user, and not by whether their
intervals overlap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
"""Corrected p-values below this level count as a difference."""
POWER = 0.8

_NUM_RESAMPLES = 9_999
_MANY = 20_000
"""Values beyond which a bootstrap draws how often each value occurs, not which users are drawn."""


@dataclass(frozen=True)
class Share:
    """A share or a mean with its 95% interval; what makes it says which interval and unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """The comparison of two systems on the same users.

    Attributes:
        first_only: Number of users that only the first system got right.
        second_only: Number of users that only the second system got right.
        p_value: P-value of the exact two-sided McNemar test; 1 if they never differ.
        difference: First HitRatio@1 minus second.
        low: Lower end of the difference's 95% interval, percentile bootstrap over users.
        high: Upper end of that interval.
    """

    first_only: int
    second_only: int
    p_value: float
    difference: float
    low: float
    high: float


def wilson(count: int, total: int) -> Share | None:
    """The share ``count / total`` with its interval; None if ``total`` is 0."""
    from scipy.stats import binomtest  # a second to import

    if total == 0:
        return None
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count / total, float(interval.low), float(interval.high))


def mcnemar(first: Sequence[int], second: Sequence[int]) -> Paired:
    """The comparison of two systems' hits, from the users on whom they disagree.

    Raises:
        ValueError: If the two have different lengths.
    """
    from scipy.stats import binomtest  # a second to import

    pairs = list(zip(first, second, strict=True))
    first_only = sum(a and not b for a, b in pairs)
    second_only = sum(b and not a for a, b in pairs)
    differing = first_only + second_only
    p_value = float(binomtest(first_only, differing).pvalue) if differing else 1.0
    difference = (first_only - second_only) / max(len(pairs), 1)
    low, high = _resampled_difference(first_only, second_only, len(pairs))
    return Paired(first_only, second_only, p_value, difference, low, high)


def _resampled_difference(first_only: int, second_only: int, num_users: int) -> tuple[float, float]:
    """The bootstrap interval of a paired difference of hits.

    In a resample of users, the numbers that only one system got right follow a multinomial
    distribution. Drawing these numbers avoids arrays of users times resamples.
    """
    if not num_users:
        return 0.0, 0.0
    counts = np.array([first_only, second_only, num_users - first_only - second_only])
    draws = np.random.default_rng(0).multinomial(num_users, counts / num_users, _NUM_RESAMPLES)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / num_users, [tail, 100 - tail])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> Share | None:
    """The mean of a metric over users with its 95% percentile bootstrap; None without users."""
    from scipy.stats import bootstrap  # a second to import

    if not len(values):
        return None
    if min(values) == max(values):  # all values are equal: resampling changes nothing
        return Share(values[0], values[0], values[0])
    if len(values) > _MANY:
        return Share(math.fsum(values) / len(values), *_resampled_mean(values))
    found = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=_NUM_RESAMPLES,
        batch=max(1, 10_000_000 // len(values)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Share(math.fsum(values) / len(values), float(found.low), float(found.high))


def _resampled_mean(values: Sequence[float]) -> tuple[float, float]:
    """The same interval for many users, most of whom share their value with others.

    In a resample of users, the numbers of each value follow a multinomial distribution; drawing
    these takes time with the number of different values, not of users.
    """
    found, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    rng, total = np.random.default_rng(0), len(values)
    size = max(1, 10_000_000 // len(found))
    means = [
        rng.multinomial(total, counts / total, min(size, _NUM_RESAMPLES - n)) @ found / total
        for n in range(0, _NUM_RESAMPLES, size)
    ]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's step-down correction, in the order given, each at most 1."""
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[n]))
        adjusted[n] = highest
    return adjusted


def detectable_difference(num_users: int, discordant: float, num_tests: int = 1) -> float | None:
    """The smallest difference of HitRatios on the same users that is found with probability 0.8.

    For McNemar's test at 5%, two-sided (Connor 1987), at the level of Holm's first step where there
    are several tests. Two systems on different users of equal
    HitRatio p differ like paired ones with ``discordant = 2 p (1 - p)``.

    Args:
        num_users: Number of users of the comparison.
        discordant: Share of users on whom exactly one system is right, in [0, 1].
        num_tests: Number of tests corrected together, this one included.

    Returns:
        A difference in [0, 1]; None without users, or if even the largest possible one,
        ``discordant``, would not be found.
    """
    from scipy.stats import norm  # a second to import

    alpha, beta = norm.ppf(1 - SIGNIFICANT / num_tests / 2), norm.ppf(POWER)
    if not num_users or not discordant:
        return None
    # alpha √d + beta √(d - x²) = x √n, squared and solved for x
    n = num_users
    a, b, c = n + beta**2, -2 * alpha * math.sqrt(n * discordant), (alpha**2 - beta**2) * discordant
    difference = float((-b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a))
    return difference if difference <= discordant else None


def uniform_p_value(counts: Sequence[int]) -> float | None:
    """P-value of a chi-square test that all positions are equally likely; None without counts."""
    from scipy.stats import chisquare  # a second to import

    return float(chisquare(counts).pvalue) if sum(counts) else None


def independence_p_value(num_hits: Sequence[int], num_users: Sequence[int]) -> float | None:
    """P-value of a chi-square test of equal HitRatio in groups; None if it can't be tested.

    Groups without users are left out. The test needs at least two groups, one hit and one miss.
    """
    from scipy.stats import chi2_contingency  # a second to import

    table = [(h, n - h) for h, n in zip(num_hits, num_users, strict=True) if n]
    if len(table) < 2 or not all(map(sum, zip(*table, strict=True))):
        return None
    return float(chi2_contingency(table, correction=False).pvalue)
