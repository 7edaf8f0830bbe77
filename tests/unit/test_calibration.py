import math

import numpy as np
import pytest

from msrrec.metrics.calibration import expected_calibration_error, fit_temperature, temper


def test_confidence_that_equals_the_share_of_hits_has_no_error() -> None:
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0.0)


def test_the_error_is_the_mean_distance_over_bins() -> None:
    # Bins of .5: two users at .4 with no hit, two at .9 with one: (.8 + .8) / 4.
    assert expected_calibration_error([0.4, 0.4, 0.9, 0.9], [0, 0, 1, 0], 2) == pytest.approx(0.4)


def test_full_confidence_is_in_the_last_bin() -> None:
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0.0


def test_no_users_have_no_calibration() -> None:
    with pytest.raises(ValueError, match="no users"):
        expected_calibration_error([], [])


def test_the_temperature_of_two_candidates_is_known_in_closed_form() -> None:
    # Sure by log(9), right 3 times of 4: the best probability is 3/4, so log(9) / T = log(3).
    logprobs = [(math.log(0.9), math.log(0.1))] * 4
    assert fit_temperature(logprobs, [0, 0, 0, 1]) == pytest.approx(2.0, rel=1e-3)


def test_a_temperature_mends_likelihoods_that_are_too_sure() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 6))
    probabilities = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    targets = [int(rng.choice(6, p=row)) for row in probabilities]
    sure = 3.0 * true
    temperature = fit_temperature(sure.tolist(), targets)
    assert temperature == pytest.approx(3.0, rel=0.1)

    def error(at: float) -> float:
        found = np.array([temper(row, at) for row in sure])
        return expected_calibration_error(found.max(axis=1), found.argmax(axis=1) == targets)

    assert error(temperature) < 0.03 < 0.2 < error(1.0)


def test_users_may_have_different_numbers_of_candidates_and_impossible_ones() -> None:
    logprobs = [(-0.1, -2.4, -math.inf), (-0.7, -0.7), (-math.inf, 0.0)]
    assert math.isfinite(fit_temperature(logprobs, [0, 1, 0]))


def test_tempered_probabilities_sum_to_one() -> None:
    assert temper((-1.0, -1.0, -math.inf), 2.0) == pytest.approx((0.5, 0.5, 0.0))
