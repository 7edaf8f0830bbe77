import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.fusion_sets import FusionSet, Users, choose_common, choose_own, load_halves, render
from msrrec.inference.fusion import SideOutput
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example
from tests.support.evaluation import NUM_USERS, write_evaluated_users

ITEMS = ("right", "wrong", "bad")


def output(side: Side, index: int, perplexity: float, num_tokens: int = 40) -> SideOutput:
    return SideOutput(side, "", "", index, perplexity, num_tokens, perplexity_output=perplexity)


def users(first: str, *pairs: tuple[int, float, int, float]) -> Users:
    """Users by the index and perplexity of the user side, then of the item side."""
    examples = [Example(f"{first}{n}", f"{n}", ("h",), "right", ITEMS) for n in range(len(pairs))]
    sides = [
        {"user": output("user", u, pu), "item": output("item", i, pi)} for u, pu, i, pi in pairs
    ]
    return Users(examples, sides)


# Where the sides differ, the lower perplexity is right: Eq. 3 takes the other one.
LOWER_IS_RIGHT = [(0, 1.5, 1, 2.5), (1, 2.5, 0, 1.5), (0, 1.5, 2, 2.5)] * 10


def test_the_rule_is_chosen_on_validation_and_compared_with_the_better_side_on_test() -> None:
    hits = users("v", *LOWER_IS_RIGHT).hits()
    assert (sum(hits["user"]), sum(hits["item"]), sum(hits["eq3"])) == (20, 10, 0)
    assert choose_own(hits) == "min"
    text = render([FusionSet("a", users("v", *LOWER_IS_RIGHT), users("t", *LOWER_IS_RIGHT))])
    # 10 of 30 users only the rule gets right: exact p = 2 / 2**10.
    assert "| a | 30 | user 0.6667 | min 1.0000 | +0.3333 |" in text
    assert "p = 0.002" in text
    assert "on 1 of 1 sets (a (min)); the one rule chosen for all, min, on 1 of 1 (a)." in text
    assert "thinks" not in text  # no direct answers, no route


def test_one_rule_for_all_has_the_highest_mean_and_eq_3_comes_first_among_equals() -> None:
    higher_is_right = users("v", *[(0, 2.5, 1, 1.5)] * 4).hits()
    lower_is_right = users("v", *LOWER_IS_RIGHT).hits()
    assert choose_own(higher_is_right) == "eq3"
    # Of each set's users: Eq. 3 has all and none, the lower perplexity none and all.
    assert choose_common([higher_is_right, lower_is_right]) == "eq3"
    assert choose_common([higher_is_right, lower_is_right, lower_is_right]) == "min"


def test_a_rule_that_validation_chose_may_lose_on_test() -> None:
    turned = [(0, 2.5, 1, 1.5)] * 30
    text = render([FusionSet("a", users("v", *LOWER_IS_RIGHT), users("t", *turned))])
    assert "| a | 30 | user 1.0000 | min 0.0000 | -1.0000 |" in text
    assert "on 0 of 1 sets (none)" in text


def test_the_route_is_measured_where_there_are_direct_answers() -> None:
    def with_direct(some: Users) -> Users:
        answer = output("direct", 0, 1.1, 2)
        return replace(some, sides=[{**both, "direct": answer} for both in some.sides])

    one = FusionSet("a", users("v", (1, 2.0, 1, 2.0)), users("t", (1, 2.0, 1, 2.0)))
    one = FusionSet("a", with_direct(one.validation), with_direct(one.test))
    assert "| a | 0 | 0.0% | 1.0000, 2.0 tokens | 1.0000, 2.0 tokens | 0.0000, 80.0 tokens |" in (
        render([one])
    )


def test_test_users_are_parted_by_a_hash_and_their_outputs_read(tmp_path: Path) -> None:
    dataset = write_evaluated_users(tmp_path / "dataset")
    rows = [
        {
            "run": run,
            "side": side,
            "example_id": f"e{n:02d}",
            "index": n % 3 if n else None,
            "perplexity": 2.0,
            "perplexity_output": 1.5,
            "num_tokens": 7,
            "candidate_logprobs": [0.0, -1.0, -2.0],
            "text": None,
        }
        for run in ("mine", "another")
        for side in ("user", "item")
        for n in range(NUM_USERS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "outputs.parquet")
    halves = load_halves(str(tmp_path), dataset.path, "mine")
    ids = [[example.example_id for example in half.examples] for half in halves]
    assert sorted(ids[0] + ids[1]) == [f"e{n:02d}" for n in range(NUM_USERS)]
    assert all(ids)
    assert [len(both) for half in halves for both in half.sides] == [2] * NUM_USERS
    hits = [half.hits() for half in halves]
    assert sum(sum(found["user"]) for found in hits) == NUM_USERS - 1  # the first names nothing
    # The likeliest candidate is always the first, where the target of every third user stands.
    assert sum(sum(found["user_likeliest"]) for found in hits) == NUM_USERS // 3


def test_the_mean_probability_may_choose_what_no_side_names() -> None:
    first, second = (math.log(0.6), math.log(0.0001), math.log(0.4)), (-9.0, 0.0, math.log(0.9))
    examples = [Example("a", "a", ("h",), "bad", ITEMS)]
    sides = [
        {
            "user": replace(output("user", 0, 2.0), candidate_logprobs=first),
            "item": replace(output("item", 1, 2.0), candidate_logprobs=second),
        }
    ]
    # User: .6, 0, .4; item: 0, .53, .47.
    assert Users(examples, sides).hits()["pool"] == [True]
    silent = [{**sides[0], "item": replace(sides[0]["item"], index=None)}]
    assert Users(examples, silent).hits()["pool"] == [False]


def test_a_target_that_retrieval_missed_is_a_miss_of_the_likeliest_candidate() -> None:
    examples = [Example("a", "a", ("h",), target, ITEMS) for target in ("right", "elsewhere")]
    scored = replace(output("user", 0, 1.5), candidate_logprobs=(0.0, -1.0, -2.0))
    sides = [{"user": scored, "item": replace(scored, side="item")}] * 2
    assert Users(examples, sides).hits()["user_likeliest"] == [True, False]


@pytest.mark.parametrize("rule", ["pool", "pool_all", "margin"])
def test_rules_without_their_inputs_are_left_out(rule: str) -> None:
    assert rule not in users("v", (0, 1.5, 1, 2.5)).hits()
