import gc
from collections import Counter
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables, multitest

from msrrec.metrics.statistics import (
    Paired,
    Share,
    detectable_difference,
    holm,
    independence_p_value,
    mcnemar,
    mean_interval,
    uniform_p_value,
    wilson,
)


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


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_that_of_statsmodels(hits: list[tuple[bool, bool]]) -> None:
    counts = Counter(hits)
    table = [[counts[a, b] for b in (True, False)] for a in (True, False)]
    found = mcnemar([first for first, _ in hits], [second for _, second in hits])
    assert found.p_value == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_correction_is_that_of_statsmodels(p_values: list[float]) -> None:
    with mock.patch.object(gc, "collect"):  # theirs collects garbage at each call, for a second
        expected = multitest.multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected)


def test_systems_that_never_differ_are_not_different() -> None:
    assert mcnemar([True, False], [True, False]) == Paired(0, 0, 1.0, 0.0, 0.0, 0.0)
    assert mcnemar([], []) == Paired(0, 0, 1.0, 0.0, 0.0, 0.0)


def test_systems_on_different_users_are_not_paired() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])


def test_uniform_choices_have_p_one_and_a_single_favourite_hardly_any() -> None:
    assert uniform_p_value([50] * 6) == pytest.approx(1.0)
    favourite = uniform_p_value([300, 0, 0, 0, 0, 0])
    assert favourite is not None
    assert favourite < 1e-9
    assert uniform_p_value([0, 0, 0]) is None


def test_the_difference_has_a_bootstrap_interval_around_it() -> None:
    # 60 against 20 of 400 users: 0.1, standard error sqrt((80/400 - 0.1²) / 400) = 0.02179
    first = [True] * 60 + [False] * 20 + [True] * 320
    second = [False] * 60 + [True] * 20 + [True] * 320
    found = mcnemar(first, second)
    assert found.difference == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - 1.96 * 0.02179, abs=0.003)
    assert found.high == pytest.approx(0.1 + 1.96 * 0.02179, abs=0.003)
    assert mcnemar(second, first).difference == pytest.approx(-0.1)


def test_a_mean_has_a_bootstrap_interval_around_it() -> None:
    # 0 and 1 in equal parts: standard error sqrt(0.25 / 400) = 0.025
    found = mean_interval([0.0, 1.0] * 200)
    assert found is not None
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)
    assert mean_interval([]) is None
    assert mean_interval([0.3, 0.3]) == Share(0.3, 0.3, 0.3)


def test_holm_corrects_step_by_step() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, never falling.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.7, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_only_raises(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    assert [adjusted[n] for n in order] == sorted(adjusted)


def test_the_detectable_difference_solves_connors_equation() -> None:
    # 1500 users, a third of them discordant: 1.96 √d + 0.8416 √(d - x²) = x √n
    found = detectable_difference(1500, 1 / 3)
    assert found is not None
    left = 1.959964 * (1 / 3) ** 0.5 + 0.841621 * (1 / 3 - found**2) ** 0.5
    assert left == pytest.approx(found * 1500**0.5, rel=1e-5)
    # Two systems of HitRatio 0.44 on 1,500 other users each: about 5 points
    unpaired = detectable_difference(1500, 2 * 0.44 * 0.56)
    assert unpaired == pytest.approx(0.05, abs=0.002)


def test_few_users_show_no_difference_at_all() -> None:
    assert detectable_difference(0, 0.3) is None
    assert detectable_difference(10, 0.0) is None
    assert detectable_difference(5, 0.1) is None  # half a user differs


def test_groups_of_equal_hit_ratio_have_p_one() -> None:
    assert independence_p_value([5, 10], [10, 20]) == pytest.approx(1.0)
    # 2x2 table (9, 1), (1, 9): chi-square 20 * (81 - 1)² / 10⁴ = 12.8, p = 0.00034667
    assert independence_p_value([9, 1], [10, 10]) == pytest.approx(0.00034667, rel=1e-3)
    assert independence_p_value([9, 1, 0], [10, 10, 0]) == pytest.approx(0.00034667, rel=1e-3)
    assert independence_p_value([3], [10]) is None
    assert independence_p_value([0, 0], [10, 10]) is None
    assert independence_p_value([10, 10], [10, 10]) is None
