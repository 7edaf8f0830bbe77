import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.evaluation.statistics import Paired, mcnemar, uniform_p_value, wilson


def test_the_wilson_interval_of_eight_in_ten() -> None:
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964:
    # (0.99207 ± 0.31333) / 1.38415 = 0.49016, 0.94331
    share = wilson(8, 10)
    assert share is not None
    assert share.value == 0.8
    assert share.low == pytest.approx(0.49016, abs=1e-4)
    assert share.high == pytest.approx(0.94331, abs=1e-4)


def test_the_interval_of_nothing_is_nothing() -> None:
    assert wilson(0, 0) is None


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_share_lies_in_its_interval(count: int, total: int) -> None:
    share = wilson(min(count, total), total)
    assert share is not None
    assert -1e-12 <= share.low <= share.value + 1e-12
    assert share.value - 1e-12 <= share.high <= 1 + 1e-12


def test_mcnemar_counts_only_users_on_whom_the_systems_differ() -> None:
    # 5 against 1: two-sided binomial of 6 fair coins: 2 * (1 + 6) / 64 = 0.21875
    first = [True] * 5 + [False] + [True] * 10 + [False] * 10
    second = [False] * 5 + [True] + [True] * 10 + [False] * 10
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (5, 1)
    assert found.p_value == pytest.approx(0.21875)
    assert mcnemar(second, first).p_value == pytest.approx(0.21875)


def test_systems_that_never_differ_are_not_different() -> None:
    assert mcnemar([True, False], [True, False]) == Paired(0, 0, 1.0)
    assert mcnemar([], []) == Paired(0, 0, 1.0)


def test_systems_on_different_users_are_not_paired() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])


def test_uniform_choices_have_p_one_and_a_single_favourite_hardly_any() -> None:
    assert uniform_p_value([50] * 6) == pytest.approx(1.0)
    favourite = uniform_p_value([300, 0, 0, 0, 0, 0])
    assert favourite is not None
    assert favourite < 1e-9
    assert uniform_p_value([0, 0, 0]) is None
