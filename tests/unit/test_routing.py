import math
from collections.abc import Mapping, Sequence

import pytest

from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, DataError
from msrrec.evaluation.routing import choose_threshold, measure_route
from msrrec.inference.batch import QueryEncoder, RecommendStage, TitleTable
from msrrec.inference.fusion import SideOutput
from msrrec.inference.recommender import Recommender
from msrrec.inference.routing import confidence, route, thinks
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example, Item
from tests.support.batches import read_stage
from tests.support.engine import SOURCE, FakeEngine, listed_candidates, recommender

ITEMS = ("Red Lamp", "Blue Shoe", "Oak Table")


def direct(index: int | None, probability: float, num_tokens: int = 2) -> SideOutput:
    """A direct answer; its perplexity is the inverse of the mean probability of a token."""
    perplexity = probability ** (-1 / num_tokens)
    return SideOutput("direct", "", "", index, None, num_tokens, perplexity_output=perplexity)


def chain(side: Side, index: int | None, num_tokens: int = 50) -> SideOutput:
    return SideOutput(side, "", "", index, 2.0, num_tokens)


def outputs(answer: SideOutput, fused: int | None) -> Mapping[Side, SideOutput]:
    return {"direct": answer, "user": chain("user", fused), "item": chain("item", fused)}


def examples(count: int) -> list[Example]:
    """Users whose target is the first candidate."""
    return [Example(f"u{n}", f"u{n}", ("h",), ITEMS[0], ITEMS) for n in range(count)]


def test_confidence_is_the_probability_of_all_tokens_of_the_answer() -> None:
    # Two tokens of probability .5 and .8, whose perplexity is 1 / sqrt(.4).
    answer = SideOutput("direct", "", "", 1, None, 2, perplexity_output=1 / math.sqrt(0.5 * 0.8))
    assert confidence(answer) == pytest.approx(0.4)
    assert confidence(direct(None, 0.9)) == 0.0
    assert confidence(SideOutput("direct", "", "", 1, None, 2)) == 0.0


@pytest.mark.parametrize(
    ("index", "probability", "threshold", "expected"),
    [
        (0, 0.5, 0.6, True),
        (0, 0.7, 0.6, False),
        (0, 0.5, 0.0, False),  # nobody thinks
        (None, 0.5, 0.0, False),
        (None, 0.9, 0.1, True),  # an answer that names nothing is never sure
        (0, 1.0, 1.0, True),  # everybody thinks
    ],
)
def test_a_user_thinks_below_the_threshold(
    index: int | None, probability: float, threshold: float, expected: bool
) -> None:
    assert thinks(direct(index, probability), threshold) is expected


def test_a_route_takes_the_direct_answer_or_the_fusion_of_both_chains() -> None:
    both = outputs(direct(2, 0.5), 1)
    sure, unsure = route(both, 0.4), route(both, 0.6)
    assert (sure.index, sure.side, [side.side for side in sure.sides]) == (2, "direct", ["direct"])
    assert (unsure.index, unsure.side) == (1, "user")
    assert [side.side for side in unsure.sides] == ["direct", "user", "item"]
    # Where the generation has routed already, what is there decides.
    assert route(both).index == 1
    assert route({"direct": both["direct"]}).index == 2


def test_the_threshold_with_the_most_hits_is_chosen() -> None:
    # Direct answers above .5 are right and their chains wrong, below it is the other way round.
    some = [
        outputs(direct(0, 0.9), 1),
        outputs(direct(1, 0.2), 0),
        outputs(direct(0, 0.6), 1),
        outputs(direct(1, 0.4), 0),
    ]
    threshold = choose_threshold(examples(4), some)
    assert threshold == pytest.approx(0.6)
    assert measure_route(examples(4), some, threshold).routed.hit_ratio.value == 1.0


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        # Thinking helps nobody: never think.
        ([(0, 1), (0, 0), (1, 1)], 0.0),
        # It helps everyone: always think.
        ([(1, 0), (1, 0), (1, 0)], 1.0),
        # It helps the least sure and nobody else: the fewest tokens for the same hits.
        ([(1, 0), (0, 0), (1, 1)], 0.6),
    ],
)
def test_among_equals_the_fewest_tokens_are_taken(
    pairs: Sequence[tuple[int, int]], expected: float
) -> None:
    some = [
        outputs(direct(answer, probability), fused)
        for probability, (answer, fused) in zip((0.3, 0.6, 0.9), pairs, strict=True)
    ]
    assert choose_threshold(examples(3), some) == pytest.approx(expected)


def test_users_of_equal_confidence_go_the_same_way() -> None:
    # One of the two equals gains and one loses; no threshold parts them.
    some = [outputs(direct(1, 0.5), 0), outputs(direct(0, 0.5), 1)]
    assert choose_threshold(examples(2), some) == 0.0


def test_unsure_users_can_think_alone_where_the_others_are_wholly_sure() -> None:
    unsure, sure = outputs(direct(1, 0.5), 0), outputs(direct(0, 1.0), 1)
    both = [unsure, sure, unsure]
    found = measure_route(examples(3), both, choose_threshold(examples(3), both))
    assert (found.routed.hit_ratio.value, found.thinking.value) == (1.0, pytest.approx(2 / 3))


def test_a_route_is_measured_beside_its_ends() -> None:
    some = [outputs(direct(0, 0.9), 1), outputs(direct(1, 0.2), 0), outputs(direct(0, 0.3), 1)]
    found = measure_route(examples(3), some, 0.25)
    assert found.thinking.value == pytest.approx(1 / 3)
    assert found.routed.hit_ratio.value == 1.0
    assert found.routed.tokens_per_user == pytest.approx(2 + 100 / 3)
    assert (found.never.hit_ratio.value, found.never.tokens_per_user) == (pytest.approx(2 / 3), 2)
    assert found.always is not None
    assert (found.always.hit_ratio.value, found.always.tokens_per_user) == (
        pytest.approx(1 / 3),
        100,
    )
    assert (found.against_never.first_only, found.against_never.second_only) == (1, 0)
    assert found.against_always is not None
    assert (found.against_always.first_only, found.against_always.second_only) == (2, 0)


def test_without_the_chains_of_sure_users_always_thinking_is_unknown() -> None:
    some = [{"direct": direct(0, 0.9)}, outputs(direct(1, 0.2), 0)]
    found = measure_route(examples(2), some, 0.25)
    assert (found.always, found.against_always) == (None, None)
    assert (found.routed.hit_ratio.value, found.thinking.value) == (1.0, 0.5)


def answer_by_purchase(prompt: str, seed: int) -> str:
    """A direct answer for whoever bought a pan names an item; chains name the last candidate."""
    titles = listed_candidates(prompt)
    is_direct = "side of the" not in prompt
    if is_direct and "Steel Pan" not in prompt:
        return "I would have to think"
    return f"[reasoning_end]\n({1 if is_direct else len(titles)}) {titles[0 if is_direct else -1]}"


def build_router(source: ModelSource, config: InferenceConfig) -> Recommender:
    return recommender(FakeEngine(answer_by_purchase), config)


def test_chains_are_generated_for_unsure_users_alone() -> None:
    engine = FakeEngine(answer_by_purchase)
    asked = [Query("a", "Home", ("Steel Pan",), ITEMS), Query("b", "Home", ("Fork",), ITEMS)]
    found = recommender(engine).generate_routed(asked, 1e-30)
    assert [list(result) for result in found] == [["direct"], ["direct", "user", "item"]]
    assert len(engine.prompts) == 4
    refused = recommender(engine).generate_routed([Query("c", "Home", (" ",), ITEMS)], 0.5)
    assert isinstance(refused[0]["direct"], DataError)


def test_one_user_is_routed_by_the_threshold_of_the_settings() -> None:
    config = InferenceConfig(max_new_tokens=64, route_threshold=1e-30)
    router = recommender(FakeEngine(answer_by_purchase), config)
    sure = router.recommend(["Steel Pan"], ITEMS, mode="routed")
    unsure = router.recommend(["Fork"], ITEMS, mode="routed")
    assert (sure.index, sure.side, unsure.index, unsure.side) == (0, "direct", 2, "user")
    with pytest.raises(
        ConfigError, match=r"routed: has no threshold; .*evaluate\.split=validation"
    ):
        recommender(FakeEngine(answer_by_purchase)).recommend(["Fork"], ITEMS, mode="routed")


def test_batch_inference_writes_rows_only_for_what_was_generated() -> None:
    items = {name: Item(name, name) for name in (*ITEMS, "Steel Pan", "Fork")}
    both = [
        Example(f"u{n}", f"u{n}", (title,), ITEMS[0], ITEMS)
        for n, title in enumerate(("Steel Pan", "Fork"))
    ]
    dataset = Dataset("/data", {"domain": "Home"}, items)
    sides: tuple[Side, ...] = ("direct", "user", "item")
    titles = TitleTable.collect(dataset)
    stage = RecommendStage(SOURCE, InferenceConfig(), sides, titles, build_router, 1e-30)
    rows = read_stage(stage, QueryEncoder(dataset).encode(both))
    assert [(row["example_id"], row["side"]) for row in rows] == [
        ("u0", "direct"),
        ("u1", "direct"),
        ("u1", "user"),
        ("u1", "item"),
    ]
