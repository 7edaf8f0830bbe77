import itertools
import math
from dataclasses import replace

import pytest

from msrrec import SideOutput, fuse
from msrrec.inference.fusion import candidate_probabilities


def side(name: str, index: int | None, perplexity: float | None = None) -> SideOutput:
    return SideOutput(name, f"{name} text", f"{name} reasoning", index, perplexity, 10)


@pytest.mark.parametrize(
    ("user", "item", "index", "winner", "agreement"),
    [
        # the same item: the lower perplexity wins
        ((3, 1.5), (3, 2.5), 3, "user", "agree"),
        ((3, 2.5), (3, 1.5), 3, "item", "agree"),
        # different items: the higher perplexity wins
        ((1, 1.5), (4, 2.5), 4, "item", "differ"),
        ((1, 2.5), (4, 1.5), 1, "user", "differ"),
        # ties fall to the user side
        ((3, 2.0), (3, 2.0), 3, "user", "agree"),
        ((1, 2.0), (4, 2.0), 1, "user", "differ"),
        # so does a missing perplexity on either side or both
        ((3, None), (3, 1.0), 3, "user", "agree"),
        ((3, 9.0), (3, None), 3, "user", "agree"),
        ((1, None), (4, 9.0), 1, "user", "differ"),
        ((1, 1.0), (4, None), 1, "user", "differ"),
        ((1, None), (4, None), 1, "user", "differ"),
        # one valid side wins whatever the perplexities say
        ((2, 9.0), (None, 1.0), 2, "user", "one_valid"),
        ((None, 1.0), (2, 9.0), 2, "item", "one_valid"),
        ((None, 9.0), (2, 1.0), 2, "item", "one_valid"),
        ((None, None), (0, None), 0, "item", "one_valid"),
        ((0, None), (None, None), 0, "user", "one_valid"),
        # the first candidate is index 0, which is valid
        ((0, 1.5), (0, 1.2), 0, "item", "agree"),
        # none
        ((None, 1.0), (None, 2.0), None, None, "none_valid"),
        ((None, None), (None, None), None, None, "none_valid"),
    ],
)
def test_fusion_follows_equation_3_and_the_invalid_cases(
    user: tuple[int | None, float | None],
    item: tuple[int | None, float | None],
    index: int | None,
    winner: str | None,
    agreement: str,
) -> None:
    fused = fuse(side("user", *user), side("item", *item))
    assert (fused.index, fused.side, fused.agreement) == (index, winner, agreement)


def test_the_chosen_output_is_the_winners_whole_output() -> None:
    user, item = side("user", 1, 1.5), side("item", 4, 2.5)
    assert fuse(user, item).chosen is item
    assert fuse(user, item).sides == (user, item)
    assert fuse(side("user", None), side("item", None)).chosen is None


def test_fusion_never_invents_an_item() -> None:
    values = [None, 0, 1]
    perplexities = [None, 1.0, 2.0]
    for u, i, pu, pi in itertools.product(values, values, perplexities, perplexities):
        fused = fuse(side("user", u, pu), side("item", i, pi))
        assert (fused.index is None) == (u is None and i is None)
        assert fused.index in {u, i}


def test_likelihoods_become_shares_of_their_sum() -> None:
    scored = replace(side("user", 0), candidate_logprobs=(-1000.0, -1000.0 + math.log(3)))
    assert candidate_probabilities(scored) == pytest.approx((0.25, 0.75))
    assert candidate_probabilities(side("user", 0)) == ()


def test_a_side_whose_perplexity_is_no_number_is_invalid() -> None:
    good, bad = side("user", 1, 2.0), side("item", 2, float("nan"))
    assert not bad.is_valid
    for one, other in ((good, bad), (bad, good)):
        found = fuse(one, other)
        assert (found.index, found.side, found.agreement) == (1, "user", "one_valid")
    assert fuse(bad, bad).agreement == "none_valid"
