"""The verdict of a study from its hits: contrasts by hand, corrections, words, and bad files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from statsmodels.stats import contingency_tables

from msrrec.config import StudyConfig
from msrrec.embedded.ceiling import Ceiling
from msrrec.errors import DataError
from msrrec.evaluation.hits import ArmHits, Cell, group_hits, read_hits
from msrrec.evaluation.study import Beside, analyse, compare_arms, conclude, plan_power
from msrrec.evaluation.study_results import Contrast, StudyResult
from msrrec.report.study import render_study
from msrrec.report.study_table import render_study_table
from tests.support.hits import rows_of, write_hits

READINGS = ("full", "direct")


def load(tmp_path: Path, *arms: list[dict[str, object]]) -> dict[Cell, ArmHits]:
    return group_hits(read_hits([write_hits(tmp_path / "h.parquet", [r for a in arms for r in a])]))


def headline(found: dict[Cell, ArmHits]) -> Contrast:
    (dataset,) = analyse(found, READINGS)
    assert dataset.headline is not None
    return dataset.headline


def test_a_contrast_is_the_mean_over_users_and_seeds(tmp_path: Path) -> None:
    chain = rows_of("chain", {0: "hhmh", 1: "hmmh"}, reading="full")
    none = rows_of("none", {0: "hmmm", 1: "mmmh"})
    found = headline(load(tmp_path, chain, none))
    # by user: 0 and 1, 1 and 0, 0 and 0, 1 and 0; so 3 of 8, by seed 2/4 and 1/4
    assert found.difference == pytest.approx(3 / 8)
    assert (found.num_users, found.seeds) == (4, (0, 1))
    assert found.discordant == pytest.approx(3 / 8)
    assert found.spread == pytest.approx(0.25 / 2**0.5)
    # three users gain 1 of 2, so all of their signs must agree: 2 of 8 patterns
    assert found.p_models == pytest.approx(0.25)


def test_one_seed_gives_mcnemars_test(tmp_path: Path) -> None:
    chain = rows_of("chain", {3: "h" * 12 + "m" * 3 + "h" * 5}, reading="full")
    none = rows_of("none", {3: "m" * 12 + "h" * 3 + "h" * 5})
    found = headline(load(tmp_path, chain, none))
    expected = contingency_tables.mcnemar([[0, 12], [3, 0]], exact=True).pvalue
    assert found.p_value == found.p_models == found.p_adjusted == pytest.approx(expected)
    assert found.spread is None


def test_arms_tell_hits_validity_and_spread(tmp_path: Path) -> None:
    hits = load(tmp_path, rows_of("none", {0: "hmim", 1: "hhih"}), rows_of("chain", {0: "mmmm"}))
    (dataset,) = analyse(hits, READINGS)
    none, chain = dataset.arms
    assert (none.hit_ratio.value, none.valid_ratio) == (0.5, 0.75)
    assert none.by_seed == (0.25, 0.75)
    assert none.spread == pytest.approx(0.5 / 2**0.5)
    assert (chain.hit_ratio.value, chain.hit_ratio.low, chain.spread) == (0, 0, None)
    assert chain.hit_ratio.high == pytest.approx(0.4899, abs=1e-4)  # Wilson: z² / (4 + z²)


def test_only_users_and_seeds_of_both_arms_are_compared(tmp_path: Path) -> None:
    hits = load(tmp_path, rows_of("chain", {0: "hhh", 1: "hhhh"}), rows_of("none", {1: "mmhhh"}))
    found = headline(hits)
    assert (found.num_users, found.seeds) == (3, (1,))
    assert found.difference == pytest.approx(2 / 3)


def test_the_primary_contrasts_are_corrected_together_and_others_are_not(tmp_path: Path) -> None:
    # One seed. Differing users: none 10 to 0 (p = 2/2^10), placebo 8 to 0 (2/2^8), facts 6 to 0.
    arms = {"none": 10, "placebo": 8, "facts": 6, "filler": 10}
    rows = [rows_of(arm, {0: "m" * n + "h" * (20 - n)}) for arm, n in arms.items()]
    (dataset,) = analyse(load(tmp_path, rows_of("chain", {0: "h" * 20}), *rows), READINGS)
    found = {(c.first, c.second): c for c in dataset.contrasts}
    assert found["chain", "none"].p_adjusted == pytest.approx(3 * 2 / 2**10)
    assert found["chain", "placebo"].p_adjusted == pytest.approx(2 * 2 / 2**8)
    assert found["chain", "facts"].p_adjusted == pytest.approx(2 / 2**6)
    assert found["chain", "filler"].p_adjusted == pytest.approx(2 / 2**10)
    assert not found["chain", "filler"].is_primary


def test_orders_are_averaged_for_the_verdict_and_shown_apart(tmp_path: Path) -> None:
    parts = []
    for order, none in (("history_first", "mmmm"), ("candidates_first", "hhhm")):
        parts.append(rows_of("chain", {0: "hhhh"}, order=order))
        parts.append(rows_of("none", {0: none}, order=order))
    (dataset,) = analyse(load(tmp_path, *parts), READINGS)
    found = {c.order: c.difference for c in dataset.contrasts}
    assert found == {None: 0.625, "history_first": 1.0, "candidates_first": 0.25}


def test_an_order_without_chains_is_no_part_of_the_verdict(tmp_path: Path) -> None:
    rows = [rows_of("chain", {0: "hhhh"}), rows_of("none", {0: "hmmm"})]
    untuned = rows_of("untuned", {0: "hmmh"}, order="candidates_first")
    found = headline(load(tmp_path, *rows, untuned))
    assert (found.order, found.difference) == (None, 0.75)


def test_a_verdict_says_what_was_found_and_what_was_not(tmp_path: Path) -> None:
    chain = rows_of("chain", {0: "h" * 30 + "m" * 10}, reading="full")
    none = rows_of("none", {0: "m" * 20 + "h" * 10 + "m" * 10})
    placebo = rows_of("placebo", {0: "h" * 29 + "m" * 11}, reading="full")
    result = conclude(load(tmp_path, chain, none, placebo), READINGS)
    sentence = result.datasets[0].verdict
    assert sentence.startswith(
        "w: reasoning helps: +50.0 points over purchases alone [33.8, 66.2], p"
    )
    assert "40 users, 1 seed" in sentence
    assert sentence.endswith("Not shown to be better than another user's reasoning.")
    assert result.verdict == (
        "Reasoning against purchases alone, HitRatio@1: w: reasoning helps, +50.0 points "
        "[33.8, 66.2], p < 0.001, 40 users, 1 seed."
    )
    worse = conclude(load(tmp_path, rows_of("chain", {0: "m" * 40}), none), READINGS)
    assert "w: reasoning hurts, -25.0 points" in worse.verdict
    same = conclude(load(tmp_path, rows_of("chain", {0: "hmmm" * 10}), none), READINGS)
    assert "w: reasoning is not shown to differ" in same.verdict


def test_a_verdict_says_where_answers_are_invalid(tmp_path: Path) -> None:
    chain = rows_of("chain", {0: "i" * 30 + "h" * 10}, reading="full")
    none = rows_of("none", {0: "m" * 20 + "h" * 20})
    sentence = conclude(load(tmp_path, chain, none), READINGS).datasets[0].verdict
    assert "Answers that name no candidate are misses: one is named by chain for 25.0%" in sentence
    assert "none for" not in sentence
    whole = conclude(load(tmp_path, chain, none), READINGS).verdict
    assert whole.endswith("1 seed (though chain names a candidate for only 25.0% of users).")


def test_datasets_that_disagree_are_told_and_not_pooled(tmp_path: Path) -> None:
    parts = []
    for dataset, none in (("a", "m" * 30 + "h" * 30), ("b", "hm" * 30)):
        parts.append(rows_of("chain", {0: "h" * 30 + "mh" * 15}, dataset=dataset))
        parts.append(rows_of("none", {0: none}, dataset=dataset))
    result = conclude(load(tmp_path, *parts), READINGS)
    assert "a: reasoning" in result.verdict
    assert "b: reasoning" in result.verdict
    found, (a, b) = result.heterogeneity, [d.headline for d in result.datasets]
    assert found is not None
    assert a is not None
    assert b is not None
    # two effects: Q is the squared difference over the sum of their variances
    expected = (a.difference - b.difference) ** 2 / (a.error**2 + b.error**2)
    assert (found.q, found.freedom) == (pytest.approx(expected), 1)


def test_a_study_without_both_arms_has_no_verdict(tmp_path: Path) -> None:
    result = conclude(load(tmp_path, rows_of("chain", {0: "hm"})), READINGS)
    assert (
        "no verdict, as the arms chain and none are not both there in every order" in result.verdict
    )


def test_several_readings_of_an_arm_are_told_apart_by_the_one_asked_for(tmp_path: Path) -> None:
    parts = [
        rows_of("none", {0: "mmmm"}),
        rows_of("chain", {0: "hhhh"}, reading="full"),
        rows_of("chain", {0: "hhmm"}, reading="user"),
    ]
    hits = load(tmp_path, *parts)
    assert analyse(hits, ["user", "direct"])[0].contrasts[0].difference == 0.5
    with pytest.raises(DataError, match=r"arm chain on w has the readings full, user; .* item"):
        analyse(hits, ["item"])


def test_chains_read_directly_are_the_arm_of_that_name(tmp_path: Path) -> None:
    parts = [
        rows_of("chain", {0: "hhhh"}, reading="full"),
        rows_of("chain", {0: "hhmm"}, reading="direct"),
        rows_of("none", {0: "hmmm"}),
    ]
    (dataset,) = analyse(load(tmp_path, *parts), READINGS)
    found = {(c.first, c.second): c.difference for c in dataset.contrasts}
    assert found["chain", "direct"] == 0.5
    assert found["direct", "none"] == 0.25
    assert found["chain", "none"] == 0.75


def test_a_user_who_is_there_twice_is_refused(tmp_path: Path) -> None:
    rows = rows_of("none", {0: "hm"})
    path = write_hits(tmp_path / "h.parquet", [*rows, rows[0]])
    with pytest.raises(DataError, match="u0000 is there twice for dataset w, arm none"):
        read_hits([path])
    with pytest.raises(DataError, match="no row"):
        read_hits([write_hits(tmp_path / "empty.parquet", [])])


def test_hits_of_two_splits_are_refused(tmp_path: Path) -> None:
    none = rows_of("none", {0: "hm"})
    chain = [{**row, "example_id": "e1:test"} for row in rows_of("chain", {0: "hm"})]
    with pytest.raises(DataError, match="u0000 has two examples on the dataset w"):
        load(tmp_path, none, chain)
    elsewhere = [{**row, "dataset": "other"} for row in chain]
    assert len(load(tmp_path, none, elsewhere)) == 2


CHAIN, NONE = rows_of("chain", {0: "hmih"}), rows_of("none", {0: "hmmm"})


def write_changed(tmp_path: Path, **columns: object) -> str:
    """A file of hits in whose first row, or in all if it is a function, columns are others."""
    rows = [*CHAIN, *NONE]
    for name, value in columns.items():
        if callable(value):
            rows = [{**row, name: value(row[name])} for row in rows]
        else:
            rows = [{**rows[0], name: value}, *rows[1:]]
    path = tmp_path / "h.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"index": None}, "'hit' is true in rows whose index is null; expected the chosen slot"),
        ({"index": -1}, "'index' holds -1; expected the chosen slot from 0, or null"),
        ({"hit": lambda hit: 2 * int(hit)}, "'hit' holds 2; expected true or false"),
        ({"hit": lambda hit: 0.5 * hit}, "'hit' holds 0.5; expected true or false"),
        ({"hit": lambda _: float("nan")}, "'hit' has rows without a value"),
        ({"hit": lambda _: "yes"}, "'hit' holds other values than bool .* write it in this type"),
        ({"seed": lambda seed: f"run {seed}"}, "'seed' holds other values than int64"),
        ({"seed": lambda seed: seed + 0.5}, "'seed' holds other values than int64"),
        ({"seed": lambda _: float("nan")}, "'seed' has rows without a value"),
        ({"user_id": lambda user: [user]}, "'user_id' holds other values than string"),
        ({"user_id": lambda _: float("nan")}, "'user_id' has rows without a value"),
    ],
)
def test_values_that_tell_no_hit_are_refused_by_the_name_of_their_column(
    tmp_path: Path, columns: dict[str, object], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read_hits([write_changed(tmp_path, **columns)])


def test_seeds_as_digits_and_slots_with_nan_are_read_as_they_are_meant(tmp_path: Path) -> None:
    def as_float(index: int | None) -> float:
        return float("nan") if index is None else float(index)

    found = read_hits([write_changed(tmp_path, seed=str, index=as_float)])
    assert found.seed.tolist() == [0] * 8
    assert found.slot.tolist() == [0, 1, -1, 0, 0, 1, 1, 1]
    assert found.valid.sum() == 7


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(CHAIN)
    pq.write_table(table.append_column("hit", table["hit"]), tmp_path / "h.parquet")
    with pytest.raises(DataError, match="has column 'hit' twice"):
        read_hits([str(tmp_path / "h.parquet")])


@pytest.mark.parametrize(
    ("changed", "told"), [((2, True), "a hit at slot 2"), ((0, False), "a miss")]
)
def test_hits_among_other_candidates_are_refused(
    tmp_path: Path, changed: tuple[int, bool], told: str
) -> None:
    index, hit = changed
    none = [{**row, "index": index, "hit": hit} if n == 3 else row for n, row in enumerate(NONE)]
    with pytest.raises(DataError, match=f"u0003 has .*{told}.* arm none.*same candidates"):
        load(tmp_path, CHAIN, none)
    # with the lists in another order the slots may be others
    assert len(load(tmp_path, CHAIN, [{**row, "order": "other"} for row in none])) == 2


def test_no_interval_leaves_what_is_possible(tmp_path: Path) -> None:
    # two seeds that differ leave one degree of freedom
    chain = rows_of("chain", {0: "h" * 20 + "m" * 80, 1: "h" * 40 + "m" * 60}, reading="full")
    none = rows_of("none", {0: "m" * 99 + "h", 1: "m" * 100})
    found = load(tmp_path, chain, none)
    (dataset,) = analyse(found, READINGS)
    assert (dataset.arms[0].hit_ratio.low, dataset.arms[0].hit_ratio.high) == (0.0, 1.0)
    ours, theirs = found.values()
    assert compare_arms("chain", "none", None, [(ours, theirs)]).high == 1.0
    assert compare_arms("none", "chain", None, [(theirs, ours)]).low == -1.0


def test_an_effect_without_any_spread_is_not_surer_than_its_users(tmp_path: Path) -> None:
    chain = rows_of("chain", {0: "hhh", 1: "hhh"}, reading="full")
    found = headline(load(tmp_path, chain, rows_of("none", {0: "mmm", 1: "mmm"})))
    # the signs of three users agree by chance in 2 of 8 patterns
    assert (found.difference, found.error, found.p_value) == (1.0, 0.0, pytest.approx(0.25))


def test_datasets_are_only_told_to_differ_in_reasoning_against_purchases(tmp_path: Path) -> None:
    parts = []
    for dataset, other in (("a", "none"), ("b", "placebo")):
        parts.append(rows_of("chain", {0: "h" * 20 + "m" * 20}, dataset=dataset, reading="full"))
        parts.append(rows_of(other, {0: "hm" * 15 + "m" * 10}, dataset=dataset))
    result = conclude(load(tmp_path, *parts), READINGS)
    assert [found.headline is None for found in result.datasets] == [False, True]
    assert result.heterogeneity is None


def test_arms_without_common_seeds_are_refused(tmp_path: Path) -> None:
    hits = load(tmp_path, rows_of("chain", {0: "hh"}), rows_of("none", {1: "hh"}))
    with pytest.raises(DataError, match="2 users and 0 seeds in common"):
        analyse(hits, READINGS)


def test_the_ceiling_is_told_as_expected_and_as_it_came_out(tmp_path: Path) -> None:
    beside = {"w": Beside({}, ceiling=Ceiling("mixture", 3, 0.7, 0.66, 0.5, 0.4))}
    result = conclude(load(tmp_path, CHAIN, NONE), READINGS, beside=beside)
    assert (
        "| Bayes ceiling of the generated world |  | 0.6600 (expected 0.7000) |"
        in render_study_table(result, ["msrrec study"])
    )
    assert b"<b>0.6600</b> <small>expected 0.7000</small>" in render_study(result)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    hits = load(tmp_path, rows_of("chain", {0: "hhm"}), rows_of("none", {0: "mhm"}))
    result = conclude(hits, READINGS, plan_power(2000, StudyConfig()))
    result.save(str(tmp_path))
    assert StudyResult.load(str(tmp_path)) == result


def test_the_plan_says_what_can_be_found_and_what_is_needed() -> None:
    # at 5% / 3, 2.394 + .842 = 3.236 errors; 10 seeds of 1 point leave √(2/10) points of error,
    # and tell little enough of it that t asks for a twentieth of a point more
    power = plan_power(2000, StudyConfig(seeds=tuple(range(10))))
    assert power is not None
    assert power.detectable == pytest.approx(3.236 * (0.25 / 2000 + 0.00002) ** 0.5, abs=6e-4)
    assert power.users_needed is not None
    assert "With 2,000 users and 10 seeds, a difference of 3.9 points" in power.sentence()
    assert "after Holm's correction over 3;" in power.sentence()
    spread = plan_power(2000, StudyConfig(seed_spread=0.02))
    assert spread is not None
    assert "no number of users is enough" in spread.sentence()


def test_the_plan_corrects_over_the_contrasts_that_the_arms_allow() -> None:
    two = StudyConfig(arms=("none", "chain"))
    power = plan_power(2000, two)
    assert power is not None
    assert power.num_tests == 1
    assert "Holm" not in power.sentence()
    # one seed is tested over users alone, at 1.960 + .842 = 2.802 errors, whatever seeds spread by
    one = plan_power(2000, two.model_copy(update={"seeds": (0,)}))
    assert one is not None
    assert one.detectable == pytest.approx(2.802 * (0.25 / 2000) ** 0.5, abs=6e-4)
    assert "one seed says nothing of others" in one.sentence()
    assert plan_power(2000, StudyConfig(arms=("chain", "direct"))) is None


def test_comparing_whole_arms_takes_arrays_of_any_order() -> None:
    users = ("u1", "u2", "u3")
    ours = ArmHits(users, (0,), np.array([[1], [0], [1]]), np.ones((3, 1), dtype=bool))
    theirs = ours.select(("u3", "u1"), (0,))
    assert theirs.hits.ravel().tolist() == [1, 1]
    assert compare_arms("a", "b", None, [(ours, theirs)]).difference == 0
