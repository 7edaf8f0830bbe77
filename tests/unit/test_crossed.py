"""Means over users and seeds: intervals, exact tests and power."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from statsmodels.stats import contingency_tables

from msrrec.metrics.crossed import (
    crossed_mean,
    detectable_effect,
    sign_flip,
    users_needed,
)


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = crossed_mean(np.zeros((5, 3)))
    assert (found.value, found.low, found.high, found.error, found.p_value) == (0, 0, 0, 0, 1)


def test_one_seed_leaves_the_interval_over_users() -> None:
    # 30 of 100 users gain, 10 lose: mean .2, variance (.4 - .04) · 100/99, so the error is
    # .6 / √99 = .0603, and t at 99 degrees of freedom is 1.984
    found = crossed_mean(np.repeat([1.0, -1.0, 0.0], [30, 10, 60])[:, None])
    assert (found.value, found.error) == (pytest.approx(0.2), pytest.approx(0.0603, abs=1e-4))
    assert found.low == pytest.approx(0.2 - 1.984 * 0.0603, abs=1e-4)
    assert found.high == pytest.approx(0.2 + 1.984 * 0.0603, abs=1e-4)


def test_seeds_that_differ_widen_the_interval_however_many_users_there_are() -> None:
    # All users alike, seeds at .1 and .3: the error is that of two figures, .1414 / √2 = .1,
    # with one degree of freedom, where t is 12.706
    found = crossed_mean(np.tile([0.1, 0.3], (1000, 1)))
    assert (found.value, found.error) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.low == pytest.approx(0.2 - 1.2706, abs=1e-3)
    assert found.p_value == pytest.approx(0.295, abs=1e-3)  # t = 2 at one degree of freedom


def test_users_and_seeds_add_their_variances_and_share_what_is_left() -> None:
    # Rows 1 1, 0 0, 1 0, 0 1: means of users 1, 0, ½, ½ (variance 1/6), of seeds ½ and ½.
    # Mean squares: users 2/6, seeds 0, what is left (4 · ¼) / 3 = 1/3. Without seeds' variance the
    # error is that over users alone, √(2/6 / 8) = .2041.
    found = crossed_mean(np.array([[1, 1], [0, 0], [1, 0], [0, 1]], dtype=float))
    assert (found.value, found.error) == (0.5, pytest.approx(0.2041, abs=1e-4))
    # Rows 1 1, 1 1, 0 0, 1 0: user means 1, 1, 0, ½ (variance .2292), seed means .75 and .5.
    # Mean squares: users .4583, seeds 4 · .03125 = .125, left .125; so (.125 + .3333) / 8 = .0573
    found = crossed_mean(np.array([[1, 1], [1, 1], [0, 0], [1, 0]], dtype=float))
    assert found.error == pytest.approx(0.0573**0.5, abs=1e-4)
    # degrees of freedom (.4583 / .125)² = 13.44, where t is 2.153
    assert found.high == pytest.approx(0.625 + 2.153 * 0.2394, abs=2e-3)


def test_the_exact_test_counts_all_patterns_of_signs() -> None:
    differences = [3, -1, 2, 2, 0]
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=5)
    ]
    share = sum(abs(total) >= 6 for total in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(share)
    assert sign_flip([0, 0]) == 1.0
    assert sign_flip([-d for d in differences]) == pytest.approx(share)


def test_with_one_seed_the_exact_test_is_mcnemars() -> None:
    table = [[0, 14], [5, 0]]
    expected = contingency_tables.mcnemar(table, exact=True).pvalue
    assert sign_flip([1] * 14 + [-1] * 5 + [0] * 80) == pytest.approx(expected)


def test_the_exact_test_of_very_many_users_is_quick_and_mcnemars() -> None:
    expected = binomtest(100_300, 200_000).pvalue
    assert sign_flip([1] * 100_300 + [-1] * 99_700) == pytest.approx(expected, rel=1e-9)
    assert sign_flip([2] * 100_300 + [-2] * 99_700) == pytest.approx(expected, rel=1e-9)
    # Halves of two sizes: 0.5 of a standard deviation of sqrt(200,000 + 4 · 200,000) = 1,000
    mixed = [1] * 100_000 + [-1] * 100_000 + [2] * 100_125 + [-2] * 99_875
    assert sign_flip(mixed) == pytest.approx(2 * norm.sf(0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("num_seeds", "spread", "least", "most"),
    [
        (1, 0.0, 7, 33),
        (2, 0.04, 7, 33),
        (2, 0.1, 20, 53),
        (3, 0.04, 7, 33),
        (5, 0.0, 1, 33),
        (5, 0.04, 7, 33),
    ],
)
def test_an_effect_of_zero_is_found_about_once_in_twenty(
    num_seeds: int, spread: float, least: int, most: int
) -> None:
    rng, studies = np.random.default_rng(5), 400
    p_values = [study_of_nothing(rng, 150, num_seeds, spread) for _ in range(studies)]
    # 5% of 400 is 20, give or take three standard deviations of such a count, 4.4 each; fewer
    # where seeds don't spread, as the error is never below that over users alone; and once in ten
    # with two seeds that spread by ten points
    assert least <= sum(p < 0.05 for p in p_values) <= most


def study_of_nothing(
    rng: np.random.Generator, num_users: int, num_seeds: int, spread: float
) -> float:
    """Two arms whose seeds and users differ, but whose methods do not."""
    liking = rng.beta(1, 1, (num_users, 1))
    hits: list[NDArray[np.float64]] = []
    for _ in range(2):
        chance = np.clip(liking + rng.normal(0, spread, (1, num_seeds)), 0, 1)
        hits.append((rng.random((num_users, num_seeds)) < chance).astype(float))
    return crossed_mean(hits[0] - hits[1]).p_value


def test_the_power_of_one_seed_without_spread_is_connors() -> None:
    # (1.960 √.25 + .8416 √(.25 - .0009))² / .0009 = (.980 + .420)² / .0009 = 2,177.9
    assert users_needed(0.03, 1, 0.25, 0.0) == 2178
    # at 5% / 3 the first term is 2.394 √.25: (1.197 + .420)² / .0009 = 2,904.7
    assert users_needed(0.03, 1, 0.25, 0.0, num_tests=3) == pytest.approx(2905, abs=2)
    assert detectable_effect(2178, 1, 0.25, 0.0) == pytest.approx(0.03, abs=1e-5)


def test_seeds_that_spread_too_much_make_any_number_of_users_too_few() -> None:
    # 2.394 + .842 = 3.236 standard errors; those of 5 seeds at 1.5 points are 1.5 √(2/5) = .949
    # points, which alone ask for 3.07 points; those of 10 seeds for 2.17
    assert users_needed(0.03, 5, 0.25, 0.015, num_tests=3) is None
    enough = users_needed(0.03, 10, 0.25, 0.015, num_tests=3)
    assert enough is not None
    assert enough > 2905
    assert detectable_effect(enough, 10, 0.25, 0.015, 3) == pytest.approx(0.03, abs=1e-5)
    assert detectable_effect(2000, 5, 0.25, 0.015, 3) > 0.0307  # type: ignore[operator]


@pytest.mark.parametrize(
    ("num_users", "num_seeds", "spread"), [(300, 4, 0.01), (1000, 5, 0.03), (3000, 3, 0.01)]
)
def test_the_promised_difference_is_found_four_times_in_five(
    num_users: int, num_seeds: int, spread: float
) -> None:
    effect = detectable_effect(num_users, num_seeds, 0.3, spread)
    assert effect is not None
    rng, found = np.random.default_rng(1), 0
    for _ in range(400):
        # a user gains, loses or neither, the same with every seed; seeds move the difference
        signs = rng.choice(
            [1.0, -1.0, 0.0], num_users, p=[0.15 + effect / 2, 0.15 - effect / 2, 0.7]
        )
        seeds = rng.normal(0, spread * 2**0.5, num_seeds)
        found += crossed_mean(signs[:, None] + seeds).p_value < 0.05
    # three standard deviations of such a share are 6 points
    assert 0.74 <= found / 400 <= 0.86
