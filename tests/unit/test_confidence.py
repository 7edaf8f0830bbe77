"""How sure an evaluation's recommendations are, and how often they are right."""

import math

import pytest

from msrrec.evaluation.calibration import CalibrationTally
from msrrec.inference.fusion import SideOutput, choose_valid, fuse
from msrrec.schema import Example

EXAMPLE = Example("e", "u", ("h",), "b", ("a", "b"))


def side(name: str, index: int | None, first: float) -> SideOutput:
    logprobs = (math.log(first), math.log(1 - first))
    return SideOutput(name, "", "", index, 2.0, 10, candidate_logprobs=logprobs)


def test_the_error_is_of_the_chosen_items_mean_probability() -> None:
    tally = CalibrationTally()
    # Both sides name the first item, with .9 and .7; the second is right.
    tally.add([EXAMPLE], [fuse(side("user", 0, 0.9), side("item", 0, 0.7))])
    found = tally.result(None, is_validation=False)
    assert found is not None
    assert (found.num_users, found.temperature, found.tempered_error) == (1, None, None)
    assert found.mean_confidence == found.error == pytest.approx(0.8)


def test_validation_chooses_the_temperature_and_a_test_takes_it() -> None:
    tally = CalibrationTally()
    right = Example("e", "u", ("h",), "a", ("a", "b"))
    # Sure by .9, right for three of four: at temperature 2 the probability is 3/4.
    sure = choose_valid(side("full", 0, 0.9))
    tally.add([right, right, right, EXAMPLE], [sure] * 4)
    found = tally.result(None, is_validation=True)
    assert found is not None
    assert found.is_chosen_here
    assert found.temperature == pytest.approx(2.0, rel=1e-3)
    assert found.error == pytest.approx(0.15)
    assert found.tempered_error == pytest.approx(0.0, abs=1e-3)
    taken = tally.result(2.0, is_validation=False)
    assert taken is not None
    assert not taken.is_chosen_here
    assert taken.tempered_error == pytest.approx(0.0)


def test_a_target_that_retrieval_missed_is_a_wrong_recommendation_and_chooses_no_temperature() -> (
    None
):
    right, missed = (Example("e", "u", ("h",), target, ("a", "b")) for target in "az")
    tally, alone = CalibrationTally(), CalibrationTally()
    sure = choose_valid(side("full", 0, 0.9))
    tally.add([right, right, right, EXAMPLE, missed], [sure] * 5)
    alone.add([missed], [sure])
    found, of_missed = (one.result(None, is_validation=True) for one in (tally, alone))
    assert found is not None
    assert (found.num_users, found.error) == (5, pytest.approx(0.3))  # right for three of five
    assert found.temperature == pytest.approx(2.0, rel=1e-3)  # as without the missed one
    assert of_missed is not None
    assert (of_missed.temperature, of_missed.is_chosen_here) == (None, False)


def test_users_without_a_recommendation_or_likelihoods_do_not_count() -> None:
    tally = CalibrationTally()
    bare = SideOutput("full", "", "", 0, 2.0, 10)
    tally.add(
        [EXAMPLE, EXAMPLE],
        [choose_valid(side("full", None, 0.5)), choose_valid(bare)],
    )
    assert tally.result(1.0, is_validation=True) is None
