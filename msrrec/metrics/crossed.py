"""Means over users and seeds, both of which are samples: intervals, tests and power.

A figure of several trainings varies for two reasons: other users would give another one, and so
would other seeds. An interval over users alone speaks of the trained models, not of the method.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msrrec.metrics.statistics import (
    CONFIDENCE,
    POWER,
    SIGNIFICANT,
    Share,
    detectable_difference,
    wilson,
)

FloatArray = NDArray[np.float64]

_NOTHING = 1e-12
"""Rounding errors are below it."""
_LOOKS = 400
"""Mean squares of the seeds over which planned power is averaged."""
_MOST_USERS = 10**9
"""Users beyond which no study is planned."""


@dataclass(frozen=True)
class CrossedMean:
    """The mean of values by user and seed, for other users and other seeds.

    Attributes:
        value: The mean.
        low: Lower end of its 95% interval.
        high: Upper end of that interval.
        error: Its standard error.
        p_value: Two-sided p-value of a mean of 0.
    """

    value: float
    low: float
    high: float
    error: float
    p_value: float


def crossed_mean(values: FloatArray) -> CrossedMean:
    """The mean of values with an interval for other users and other seeds.

    Users and seeds are crossed random effects, and t has the degrees of freedom of Hillis (2007),
    as in studies where several readers judge the same cases. The error is never below that over
    users alone, so chance can't make seeds look more alike than they are. An effect of zero is
    found in 5% of studies where seeds spread and in 2% where they don't; with two seeds in up to
    8%. A bootstrap that resamples users and seeds counts three times what differs by both at once
    (Owen 2007), which is most of the variance of hits, and so finds next to nothing. With one seed
    nothing is known of others, and the interval is for other users alone.

    Args:
        values: Shape (U, S), one row a user, one column a seed; at least two users.
    """
    num_users, num_seeds = values.shape
    mean = float(values.mean())
    by_user, by_seed = values.mean(axis=1), values.mean(axis=0)
    of_users = num_seeds * float(by_user.var(ddof=1))
    if num_seeds == 1:
        return _interval(mean, of_users / num_users, num_users - 1)
    rest = values - by_user[:, None] - by_seed + mean
    of_both = float((rest**2).sum()) / ((num_users - 1) * (num_seeds - 1))
    of_seeds = num_users * float(by_seed.var(ddof=1))
    total = max(of_users, of_seeds + of_users - of_both)
    freedom = (num_seeds - 1) * (total / of_seeds) ** 2 if of_seeds > _NOTHING else num_users - 1
    return _interval(mean, total / values.size, freedom)


def crossed_share(hits: FloatArray) -> Share:
    """The share of hits with its interval for other users and other seeds, within [0, 1].

    Where all are hits or none is, the interval is Wilson's over users: one of no width would be too
    sure.

    Args:
        hits: Shape (U, S), 0 or 1, one row a user, one column a seed; at least two users.
    """
    found, num_users = crossed_mean(hits), len(hits)
    if found.value in (0.0, 1.0) and (sure := wilson(round(found.value) * num_users, num_users)):
        return sure
    return Share(found.value, max(found.low, 0.0), min(found.high, 1.0))


def _interval(mean: float, variance: float, freedom: float) -> CrossedMean:
    from scipy.stats import t  # a second to import

    error = math.sqrt(variance)
    if error < _NOTHING:
        return CrossedMean(mean, mean, mean, 0.0, 1.0 if abs(mean) < _NOTHING else 0.0)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(mean) / error, freedom))
    return CrossedMean(mean, mean - reach, mean + reach, error, p_value)


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p-value of paired differences, which change sign where nothing differs.

    The test of Fisher's randomization over all sign patterns at once. Where all differences are 0
    or ±1 it is the exact McNemar test.

    Args:
        differences: One whole number per user, such as the difference of hits over all seeds.
    """
    from scipy.stats import binom  # a second to import

    sizes = Counter(abs(int(value)) for value in differences if value)
    chances: FloatArray = np.ones(1)  # of the sum, in steps of 2
    lowest = -sum(size * count for size, count in sizes.items())
    for size, count in sorted(sizes.items()):
        chance = binom.pmf(np.arange(count + 1), count, 0.5)
        possible = np.flatnonzero(chance)  # of very many users, most sums are below any float
        chance = chance[possible[0] : possible[-1] + 1]
        spread = np.zeros(size * (len(chance) - 1) + 1)
        spread[::size] = chance
        chances = np.asarray(np.convolve(chances, spread), dtype=np.float64)
        lowest += 2 * size * int(possible[0])
    sums = 2 * np.arange(len(chances)) + lowest
    is_as_far = np.abs(sums) >= abs(int(sum(differences)))
    return min(1.0, float(chances[is_as_far].sum()))


def detectable_effect(
    num_users: int, num_seeds: int, discordant: float, spread: float, num_tests: int = 1
) -> float | None:
    """The smallest difference of two arms that ``crossed_mean`` finds with probability 0.8.

    As ``detectable_difference``, with the variance that seeds add. A few seeds tell little of how
    far they spread, so the test asks for more than two errors; see ``_power``.

    Args:
        num_users: Number of users of the comparison.
        num_seeds: Number of seeds of each arm.
        discordant: Share of users on whom exactly one arm is right.
        spread: Standard deviation of an arm's HitRatio over seeds.
        num_tests: Number of tests corrected together.

    Returns:
        A difference in [0, 1]; None if even the largest possible one would not be found.
    """
    from scipy.optimize import brentq  # a second to import

    if num_seeds == 1 or not spread:
        return detectable_difference(num_users, discordant, num_tests)

    def lack(difference: float) -> float:
        return POWER - _power(difference, num_users, num_seeds, discordant, spread, num_tests)

    return None if lack(discordant) > 0 else float(brentq(lack, 0.0, discordant, xtol=1e-7))


def _power(
    difference: float,
    num_users: int,
    num_seeds: int,
    discordant: float,
    spread: float,
    num_tests: int,
) -> float:
    """The probability that ``crossed_mean`` finds a difference that several seeds scatter.

    It is the mean over what the seeds may look like: their mean square varies as chi-square, and
    both the error and the degrees of freedom follow it. Users are taken to differ in the same way
    with every seed; averaging over seeds would else remove some of that.
    """
    from scipy.stats import chi2, norm, t  # a second to import

    freedom = num_seeds - 1
    of_users = discordant - difference**2
    of_seeds = num_users * 2 * spread**2 / num_seeds
    seen = of_seeds * chi2.ppf((np.arange(_LOOKS) + 0.5) / _LOOKS, freedom) / freedom
    total = of_users + seen
    levels = t.ppf(1 - SIGNIFICANT / num_tests / 2, freedom * (total / seen) ** 2)
    needed = levels * np.sqrt(total / num_users)
    error = math.sqrt((of_users + of_seeds) / num_users)
    return float(norm.sf((needed - difference) / error).mean())


def users_needed(
    difference: float, num_seeds: int, discordant: float, spread: float, num_tests: int = 1
) -> int | None:
    """The number of users with which a difference is found with probability 0.8.

    Arguments are those of ``detectable_effect``. None if no number is enough, for the seeds spread
    too much or are too few.
    """
    if difference > discordant:
        return None
    low, high = 0, 1
    while not _finds(difference, high, num_seeds, discordant, spread, num_tests):
        if high > _MOST_USERS:
            return None
        low, high = high, high + high // 4 + 1  # small steps, as more users may find less
    while high - low > 1:
        middle = (low + high) // 2
        is_enough = _finds(difference, middle, num_seeds, discordant, spread, num_tests)
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def _finds(
    difference: float,
    num_users: int,
    num_seeds: int,
    discordant: float,
    spread: float,
    num_tests: int,
) -> bool:
    found = detectable_effect(num_users, num_seeds, discordant, spread, num_tests)
    return found is not None and found <= difference
