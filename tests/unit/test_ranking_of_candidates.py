"""The order of all candidates of a recommendation."""

import math
import random

import pytest

from msrrec.inference.fusion import Recommendation, SideOutput, choose_valid, fuse
from msrrec.inference.ranking import confidence, rank_candidates


def side(name: str, index: int | None, *probabilities: float) -> SideOutput:
    logprobs = tuple(math.log(value) for value in probabilities) or None
    return SideOutput(name, "", "", index, 2.0, 10, candidate_logprobs=logprobs)


def order(found: Recommendation) -> list[int]:
    return [one.index for one in rank_candidates(found)]


def test_scores_are_the_mean_probability_over_both_sides() -> None:
    found = fuse(side("user", 0, 0.7, 0.2, 0.1), side("item", 0, 0.3, 0.1, 0.6))
    assert order(found) == [0, 2, 1]
    assert [one.score for one in rank_candidates(found)] == pytest.approx([0.5, 0.35, 0.15])


def test_the_recommended_candidate_is_first_whatever_its_likelihood() -> None:
    found = choose_valid(side("full", 2, 0.6, 0.3, 0.1))
    assert order(found) == [2, 0, 1]


def test_without_a_valid_output_the_likelihoods_alone_decide() -> None:
    assert order(choose_valid(side("full", None, 0.2, 0.5, 0.3))) == [1, 2, 0]


def test_a_side_without_likelihoods_has_no_say_and_without_any_there_is_no_ranking() -> None:
    assert order(fuse(side("user", 1, 0.2, 0.5, 0.3), side("item", 1))) == [1, 2, 0]
    assert rank_candidates(fuse(side("user", 1), side("item", 1))) == ()


def test_confidence_is_the_tempered_probability_of_the_recommended_item() -> None:
    found = choose_valid(side("full", 1, 0.1, 0.9))
    assert confidence(found, 1.0) == pytest.approx(0.9)
    assert confidence(found, 2.0) == pytest.approx(0.75)  # square roots of 1/10 and 9/10
    assert confidence(found, None) is None
    assert confidence(choose_valid(side("full", None, 0.5, 0.5)), 1.0) is None
    assert confidence(choose_valid(side("full", 1, 1e-320, 1.0)), 1.0) == pytest.approx(1.0)


def test_the_order_of_the_candidates_does_not_matter() -> None:
    rng = random.Random(0)
    weights = [rng.random() for _ in range(20)]
    values = [weight / sum(weights) for weight in weights]
    best = values.index(max(values))
    usual = order(choose_valid(side("full", best, *values)))
    shuffled = rng.sample(range(20), 20)
    turned = choose_valid(side("full", shuffled.index(best), *(values[i] for i in shuffled)))
    assert [shuffled[i] for i in order(turned)] == usual
