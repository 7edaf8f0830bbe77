import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.evaluation.agreement import fusion_table
from msrrec.evaluation.results import FusionCount, Histogram
from msrrec.inference.fusion import SideOutput, fuse
from msrrec.metrics.ranking import (
    Groups,
    chance,
    hits,
    hr_at_k,
    lenient_metrics,
    ndcg_at_k,
    pack_bits,
    rank_metrics,
    reciprocal_ranks,
    target_rank,
    target_ranks,
    unpack_bits,
)
from msrrec.schema import Example


def example(name: str, target: str, candidates: tuple[str, ...] = ("a", "b", "c")) -> Example:
    return Example(name, name, ("h",), target, candidates)


EXAMPLES = [example("1", "a"), example("2", "b"), example("3", "c"), example("4", "a")]


def test_invalid_outputs_count_as_misses() -> None:
    metrics = rank_metrics(EXAMPLES, ["a", None, "b", None])
    assert (metrics.num_users, metrics.num_hits, metrics.num_valid) == (4, 1, 2)
    assert metrics.hit_ratio.value == 0.25
    assert metrics.valid_ratio.value == 0.5
    assert metrics.hit_ratio_valid.value == 0.5


def test_a_random_candidate_stands_in_for_invalid_outputs() -> None:
    pairs = [*EXAMPLES, example("5", "a", ("a", "b"))]
    share = rank_metrics(pairs, ["a", None, "b", None, None]).hit_ratio_fallback
    # one hit, two of three candidates and one of two: (1 + 1/3 + 1/3 + 1/2) / 5
    assert share.value == pytest.approx(13 / 30)
    assert share.low < 13 / 30 < share.high
    assert rank_metrics(EXAMPLES, ["a", "a", "b", "a"]).hit_ratio_fallback.value == 0.5
    # of three candidates each: HitRatio@1 + (1 - ValidRatio) / 3
    assert rank_metrics(EXAMPLES, ["a", None, "b", None]).hit_ratio_fallback.value == (
        pytest.approx(0.25 + 0.5 / 3)
    )


def test_lenient_choices_are_counted_beside_the_strict_ones() -> None:
    found = lenient_metrics(EXAMPLES, ["a", "b", None, "b"])
    assert (found.num_hits, found.num_valid) == (2, 3)
    assert (found.hit_ratio.value, found.valid_ratio.value) == (0.5, 0.75)


def test_without_valid_outputs_the_ratio_among_them_is_undefined() -> None:
    metrics = rank_metrics(EXAMPLES, [None] * 4)
    assert metrics.hit_ratio.value == 0.0
    assert metrics.hit_ratio_valid is None
    assert metrics.slots.uniform_p_value is None


def test_slots_tell_where_targets_stand_and_where_choices_fall() -> None:
    slots = rank_metrics(EXAMPLES, ["a", "b", "b", "b"]).slots
    assert slots.num_users == (2, 1, 1)
    assert [share.value for share in slots.hit_ratio if share] == [0.5, 1.0, 0.0]
    assert slots.num_chosen == (1, 3, 0)
    # chi-square of 1, 3, 0 against 4/3 each is 3.5 with 2 degrees of freedom: p = exp(-1.75)
    assert slots.uniform_p_value == pytest.approx(0.17377, abs=1e-4)


def test_a_position_bias_of_the_hits_is_tested() -> None:
    # Always the first candidate: right for both users with the target there, wrong for both others.
    slots = rank_metrics(EXAMPLES, ["a"] * 4).slots
    # table (2, 0), (0, 1), (0, 1): chi-square 4 with 2 degrees of freedom: p = exp(-2)
    assert slots.hit_p_value == pytest.approx(0.13534, abs=1e-4)


def test_slots_follow_the_frozen_order_of_each_example() -> None:
    turned = [example("1", "a", ("b", "c", "a"))]
    assert rank_metrics(turned, ["a"]).slots.num_chosen == (0, 0, 1)


def group(groups: Groups) -> dict[tuple[int, int | None], tuple[int, float]]:
    """Users and HitRatio@1 of every group that has users."""
    return {
        (row.low, row.high): (row.num_users, row.hit_ratio.value)
        for row in groups.rows
        if row.num_users
    }


def test_hit_ratio_by_history_length_and_popularity_of_the_target() -> None:
    lengths = (1, 2, 5, 12)
    examples = [
        Example(str(n), str(n), ("h",) * length, target, ("a", "b", "c"))
        for n, (length, target) in enumerate(zip(lengths, ("a", "b", "c", "a"), strict=True))
    ]
    # "c" was never bought in training, "b" by one user, "a" by ten
    metrics = rank_metrics(examples, ["a", None, "c", "b"], buyers={"a": 10, "b": 1})
    assert group(metrics.history_length) == {
        (1, 2): (2, 0.5),
        (5, 9): (1, 1.0),
        (10, None): (1, 0.0),
    }
    assert group(metrics.popularity) == {
        (0, 0): (1, 1.0),
        (1, 1): (1, 0.0),
        (10, None): (2, 0.5),
    }
    assert metrics.popularity.p_value == pytest.approx(0.36788, abs=1e-4)  # exp(-2/2)
    assert rank_metrics(examples, ["a"] * 4).popularity is None


def test_the_target_may_have_the_rank_of_any_that_ties_with_it() -> None:
    assert target_ranks(EXAMPLES[1], [3.0, 2.0, 1.0]) == range(2, 3)
    assert target_ranks(EXAMPLES[0], [1.0, 1.0, 1.0]) == range(1, 4)
    assert target_ranks(EXAMPLES[0], [float("-inf"), 0.0, float("-inf")]) == range(2, 4)
    assert target_ranks(EXAMPLES[0], [0.0, float("nan"), -1.0]) == range(2, 3)


def test_ties_are_worth_what_a_random_order_of_them_gives() -> None:
    candidates = tuple("abcdef")
    examples = [example("1", "a", candidates), example("2", "f", candidates)]
    alike = [[1.0] * 6, [1.0] * 6]
    found = rank_metrics(examples, ["a", "a"], scores=alike).ranking
    assert found is not None
    # a random permutation of six: (1 + 1/2 + … + 1/6) / 6, and a rank up to k in k of 6 cases
    assert found.mrr.value == pytest.approx(2.45 / 6)
    assert found.hr[1].value == pytest.approx(1 / 6)
    assert found.hr[3].value == pytest.approx(1 / 2)
    assert found.ndcg[3].value == pytest.approx((1 + 0.63093 + 0.5) / 6, abs=1e-5)
    # two at the top: rank 1 or 2 for the first user, rank 6 or earlier never for the second
    pair = [[2.0, 2.0, 0.0, 0.0, 0.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]
    found = rank_metrics(examples, ["b", "a"], scores=pair).ranking
    assert found is not None
    assert found.mrr.value == pytest.approx((3 / 4 + 1 / 6) / 2)


def test_the_worst_rank_counts_ties_against_the_target() -> None:
    assert target_rank(EXAMPLES[0], [3.0, 2.0, 1.0]) == 1
    assert target_rank(EXAMPLES[1], [3.0, 2.0, 1.0]) == 2
    assert target_rank(EXAMPLES[0], [1.0, 1.0, 1.0]) == 3
    assert target_rank(EXAMPLES[0], [float("-inf"), 0.0, float("-inf")]) == 3
    assert target_rank(EXAMPLES[0], [0.0, float("nan"), -1.0]) == 2  # no number can't be beaten
    with pytest.raises(ValueError, match="2 scores for 3 candidates"):
        target_rank(EXAMPLES[0], [1.0, 2.0])
    with pytest.raises(ValueError, match="not a number"):
        target_rank(EXAMPLES[0], [float("nan"), 0.0, 0.0])


def test_ranking_metrics_of_known_ranks() -> None:
    ranks = [1, 2, 3, 6]
    assert hr_at_k(ranks, 3) == [1, 1, 1, 0]
    # 1 / log2(rank + 1): 1, 1 / 1.58496, 1 / 2
    assert ndcg_at_k(ranks, 3) == pytest.approx([1, 0.63093, 0.5, 0], abs=1e-5)
    assert reciprocal_ranks(ranks) == pytest.approx([1, 0.5, 1 / 3, 1 / 6])


def test_scores_give_the_whole_ranking_and_a_user_without_them_the_last_rank() -> None:
    scores = [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], None]  # ranks 1, 2, 1, 3
    found = rank_metrics(EXAMPLES, ["a", "a", "c", None], scores=scores).ranking
    assert found.num_scored == 3
    assert list(found.hr) == [1]  # three candidates: a cutoff of three says nothing
    assert found.hr[1].value == 0.5
    assert found.ndcg[1].value == 0.5
    assert found.mrr.value == pytest.approx((1 + 1 / 2 + 1 + 1 / 3) / 4)
    assert found.mrr.low < found.mrr.value < found.mrr.high
    assert rank_metrics(EXAMPLES, ["a"] * 4, scores=[None] * 4).ranking is None
    assert rank_metrics(EXAMPLES, ["a"] * 4).ranking is None


@given(st.permutations(range(6)), st.lists(st.floats(-50, 0), min_size=6, max_size=6))
def test_permuting_candidates_leaves_the_rank_as_it_is(
    order: list[int], scores: list[float]
) -> None:
    candidates = tuple("abcdef")
    turned = tuple(candidates[n] for n in order)
    before = target_rank(example("1", "c", candidates), scores)
    assert target_rank(example("1", "c", turned), [scores[n] for n in order]) == before


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_ranking_metrics_rise_with_the_cutoff_and_ndcg_stays_below_hr(ranks: list[int]) -> None:
    for k in range(1, 20):
        for small, large in zip(hr_at_k(ranks, k), hr_at_k(ranks, k + 1), strict=True):
            assert small <= large
        for gain, hit in zip(ndcg_at_k(ranks, k), hr_at_k(ranks, k), strict=True):
            assert 0 <= gain <= hit <= 1


def test_chance_is_the_mean_of_one_over_the_number_of_candidates() -> None:
    assert chance([example("1", "a"), example("2", "a", ("a", "b"))]) == pytest.approx(5 / 12)


def test_choices_and_examples_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        hits(EXAMPLES, ["a"])


@given(st.lists(st.booleans()))
def test_hit_bits_come_back_as_they_went(flags: list[bool]) -> None:
    assert unpack_bits(pack_bits(flags), len(flags)) == flags


def side(name: str, index: int | None, perplexity: float | None) -> SideOutput:
    return SideOutput(name, "", "", index, perplexity, 1)


def test_the_fusion_table_counts_agreement_wins_and_hits() -> None:
    # targets: 0, 1, 2, 0
    sides = [
        {"user": side("user", 0, 1.0), "item": side("item", 0, 2.0)},  # agree, user wins, hit
        {"user": side("user", 0, 1.0), "item": side("item", 1, 2.0)},  # differ, item wins, hit
        {"user": side("user", 2, 1.0), "item": side("item", 1, 3.0)},  # differ, item wins, miss
        {"user": side("user", None, 1.0), "item": side("item", None, None)},
    ]
    table = fusion_table(EXAMPLES, sides, [fuse(s["user"], s["item"]) for s in sides])  # type: ignore[arg-type]
    assert table.total == FusionCount(
        num_users=4,
        user_wins=1,
        item_wins=2,
        user_hits=2,
        item_hits=2,
        fused_hits=2,
    )
    assert table.by_agreement["differ"] == FusionCount(
        num_users=2,
        user_wins=0,
        item_wins=2,
        user_hits=1,
        item_hits=1,
        fused_hits=1,
    )
    assert table.by_agreement["none_valid"].num_users == 1
    assert table.by_agreement["one_valid"].num_users == 0
    assert table.gain == 0
    assert sum(table.perplexity.agree) == 2
    assert sum(table.perplexity.differ) == 4
    assert table.perplexity.edges[0] == pytest.approx(1.0)
    assert table.perplexity.edges[-1] == pytest.approx(3.0)


def test_what_fusion_adds_is_against_the_better_side() -> None:
    sides = [
        {"user": side("user", 0, 2.0), "item": side("item", 1, 1.0)},  # user right and chosen
        {"user": side("user", 0, 1.0), "item": side("item", 1, 2.0)},  # item right and chosen
    ]
    table = fusion_table(EXAMPLES[:2], sides, [fuse(s["user"], s["item"]) for s in sides])  # type: ignore[arg-type]
    assert (table.total.user_hits, table.total.item_hits) == (1, 1)
    assert table.gain == 1
    against = table.against_better
    assert (against.side, against.first_only, against.second_only) == ("user", 1, 0)
    assert against.difference == 0.5


def test_without_perplexities_there_is_no_histogram() -> None:
    sides = [{"user": side("user", 0, None), "item": side("item", 0, None)}]
    table = fusion_table(EXAMPLES[:1], sides, [fuse(s["user"], s["item"]) for s in sides])  # type: ignore[arg-type]
    assert table.perplexity == Histogram(edges=(), agree=(), differ=())


@given(st.permutations(range(5)), st.lists(st.floats(-50, 0), min_size=5, max_size=5))
def test_the_order_of_candidates_does_not_change_what_a_likelihood_ranking_is(
    order: list[int], scores: list[float]
) -> None:
    titles = ("a", "b", "c", "d", "e")
    moved = tuple(titles[n] for n in order)
    for target in titles:
        whole = rank_metrics([example("1", target, titles)], ["a"], scores=[scores])
        again = rank_metrics(
            [example("1", target, moved)], ["a"], scores=[[scores[n] for n in order]]
        )
        assert again.ranking == whole.ranking
