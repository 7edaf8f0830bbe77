import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.evaluation.agreement import fusion_table
from msrrec.evaluation.fusion_study import (
    Sides,
    choose_rule,
    fit_gate,
    fusion_study,
    learn,
    load_validation,
    read_sides,
)
from msrrec.evaluation.results import CalibrationResult, EvaluationResult
from msrrec.inference.fusion import Gate, SideOutput, certainty, fuse, joint_loglikelihood
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.schema import Example
from tests.support.results import evaluation_result, system_id


def example(n: int, target: str = "a") -> Example:
    return Example(f"e{n}", f"u{n}", ("h",), target, ("a", "b", "c"))


def side(name: str, index: int | None, perplexity: float | None, **more: object) -> SideOutput:
    return SideOutput(name, "", "", index, perplexity, 1, **more)  # type: ignore[arg-type]


def both(user: tuple[int | None, float], item: tuple[int | None, float]) -> Sides:
    return {"user": side("user", *user), "item": side("item", *item)}


# Target: index 0. The item side has the higher perplexity and is right for one user, the lower one
# and is right for another; the sides agree on the last.
THREE = [both((1, 1.5), (0, 2.0)), both((1, 2.0), (0, 1.5)), both((0, 1.0), (0, 2.0))]


def test_each_rule_chooses_by_its_own_figure() -> None:
    table = {row.rule: row for row in fusion_study([example(n) for n in range(3)], THREE)}
    assert {name: row.num_hits for name, row in table.items()} == {
        "user": 1,
        "item": 3,
        "eq3": 2,  # the higher where they differ: the first and the last user
        "min": 2,  # the second and the last
        "max": 2,
        "coin": 2,
        "oracle": 3,
    }
    assert table["eq3"].hit_ratio_differ.value == 0.5
    assert table["oracle"].hit_ratio_differ.value == 1.0
    assert table["eq3"].against_eq3 is None
    against = table["min"].against_eq3
    assert (against.first_only, against.second_only) == (1, 1)


def test_the_margin_rule_follows_the_side_that_is_surer_of_its_item() -> None:
    sure, unsure = (-1.0, -9.0, -8.0), (-2.0, -1.5, -3.0)  # margins 7 and 0.5
    pair: Sides = {
        "user": side("user", 1, 1.0, candidate_logprobs=unsure),
        "item": side("item", 0, 1.0, candidate_logprobs=sure),
    }
    table = {row.rule: row.num_hits for row in fusion_study([example(0)], [pair])}
    assert table["margin"] == 1
    assert table["eq3"] == 0  # equal perplexities fall to the user side


def test_a_third_output_breaks_the_vote_and_without_one_there_is_no_vote() -> None:
    pair = dict(THREE[1])
    assert "vote" not in {row.rule for row in fusion_study([example(0)], [pair])}
    for third, hits in ((0, 1), (1, 0), (2, 0), (None, 0)):  # Eq. 3 takes the user side's b
        voters: Sides = {**pair, "full": side("full", third, 1.0)}
        table = {row.rule: row.num_hits for row in fusion_study([example(0)], [voters])}
        assert table["vote"] == hits


def test_equation_3_is_studied_on_the_other_perplexities_where_they_were_measured() -> None:
    pair: Sides = {
        "user": side("user", 1, 2.0, perplexity_output=1.0),
        "item": side("item", 0, 1.0, perplexity_output=2.0),
    }
    table = {row.rule: row.num_hits for row in fusion_study([example(0)], [pair])}
    assert (table["eq3"], table["eq3_output"]) == (0, 1)
    assert "eq3_unconditional" not in table


def outputs(count: int) -> list[Sides]:
    """The side of the lower perplexity is right, be it the item side or the user side."""
    rows = []
    for n in range(count):
        low, high = 1.1 + 0.01 * n, 1.6 + 0.01 * n
        item_is_low = n % 2 == 0
        rows.append(
            both(
                (1 if item_is_low else 0, high if item_is_low else low),
                (0 if item_is_low else 1, low if item_is_low else high),
            )
        )
    return rows


def test_the_gate_learns_that_the_lower_perplexity_is_right() -> None:
    sides = outputs(40)
    examples = [example(n) for n in range(40)]
    gate = fit_gate(examples, sides)
    assert gate is not None
    assert gate.num_users == 40
    assert gate.weights[1] > 0 > gate.weights[2]
    table = {row.rule: row.num_hits for row in fusion_study(examples, sides, gate)}
    assert (table["gate"], table["min"], table["eq3"]) == (40, 40, 0)


def test_few_or_uninformative_users_fit_no_gate() -> None:
    examples = [example(n) for n in range(40)]
    assert fit_gate(examples[:10], outputs(10)) is None
    agreeing = [both((0, 1.0), (0, 2.0))] * 40
    assert fit_gate(examples, agreeing) is None
    both_wrong = [both((1, 1.0), (2, 2.0))] * 40
    assert fit_gate(examples, both_wrong) is None


def test_the_gate_is_a_rule_of_both_perplexities_and_falls_to_the_user_side_without_them() -> None:
    gate = Gate((0.5, 1.0, -2.0), 30)
    user, item = side("user", 0, math.e), side("item", 1, math.e)
    assert not gate(user, item)  # 0.5 + 1 - 2
    assert gate(user, side("item", 1, 1.0))  # 0.5 + 1
    assert not gate(user, side("item", 1, None))


def write_evaluation(folder: Path, split: str, fingerprint: str = "f00") -> Dataset:
    """Forty validation users of the world of ``outputs``."""
    path = str(folder / "dataset")
    items = [{"item_id": i, "title": i} for i in "habc"]
    storage.write_table(f"{path}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    examples = [{**vars(example(n))} for n in range(40)]
    table = pa.Table.from_pylist(examples, schema=schema.EXAMPLES)
    storage.write_table(f"{path}/validation.parquet", table)
    manifest = {"schema_version": 1, "domain": "Home", "fingerprint": "f00"}
    storage.write_json(f"{path}/manifest.json", manifest)
    result = evaluation_result(
        system_id("m", "trained"), {}, dataset=fingerprint, split=split, num_users=40
    )
    result.save(str(folder / "evaluation"))
    candidates = {f"e{n}": ("a", "b", "c") for n in range(40)}
    for name in ("user", "item"):
        rows = [Prediction(f"e{n}", pair[name], 0) for n, pair in enumerate(outputs(40))]
        write_predictions(f"{folder}/evaluation/predictions/{name}.parquet", rows, candidates)
    return Dataset.load(path)


def test_the_gate_comes_from_an_evaluation_on_validation(tmp_path: Path) -> None:
    dataset = write_evaluation(tmp_path, "validation")
    gate = learn(str(tmp_path / "evaluation"), dataset).gate
    assert gate == fit_gate([example(n) for n in range(40)], outputs(40))


def test_a_gate_fitted_on_test_or_on_another_dataset_is_refused(tmp_path: Path) -> None:
    dataset = write_evaluation(tmp_path, "test")
    with pytest.raises(DataError, match="evaluates the test split"):
        load_validation(str(tmp_path / "evaluation"), dataset)
    dataset = write_evaluation(tmp_path, "validation", "other")
    with pytest.raises(DataError, match="expected the validation split of"):
        load_validation(str(tmp_path / "evaluation"), dataset)


def test_outputs_of_other_examples_are_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "validation")
    with pytest.raises(DataError, match="holds other examples than the dataset"):
        read_sides(str(tmp_path / "evaluation"), [example(n) for n in range(39)], ("user",))


def test_the_coin_does_not_look_at_the_outputs_and_its_expected_value_is_exact() -> None:
    examples = [example(n) for n in range(400)]
    sides = [both((0, 1.0), (1, 2.0)), both((1, 1.0), (0, 2.0))] * 200
    (coin,) = (row for row in fusion_study(examples, sides) if row.rule == "coin")
    # one side is right for everybody: half, and some four deviations of ten hits around 200
    assert coin.expected == 0.5
    assert 160 < coin.num_hits < 240
    again = next(row for row in fusion_study(examples, sides) if row.rule == "coin")
    assert again == coin
    # (1, 0) and (0, -): where a side alone is valid, or both agree, no coin is thrown
    mixed: list[Sides] = [both((1, 1.0), (0, 2.0)), both((0, 1.0), (None, 2.0)), THREE[2]]
    (coin,) = (row for row in fusion_study(examples[:3], mixed) if row.rule == "coin")
    assert coin.expected == pytest.approx((0.5 + 1 + 1) / 3)


def test_joint_likelihood_adds_up_all_tokens() -> None:
    user = replace(side("user", 1, 1.0, perplexity_output=math.e), num_tokens=3)
    item = replace(side("item", 0, 1.0, perplexity_output=math.exp(0.5)), num_tokens=8)
    assert joint_loglikelihood(user) == pytest.approx(-3.0)
    assert joint_loglikelihood(item) == pytest.approx(-4.0)  # surer by token, less as a whole
    pair: Sides = {"user": user, "item": item}
    table = {row.rule: row.num_hits for row in fusion_study([example(0)], [pair])}
    assert (table["joint"], table["eq3_output"]) == (0, 0)
    shorter: Sides = {"user": user, "item": replace(item, num_tokens=5)}
    table = {row.rule: row.num_hits for row in fusion_study([example(0)], [shorter])}
    assert table["joint"] == 1
    assert "joint" not in {row.rule for row in fusion_study([example(0)], [THREE[0]])}


def test_self_certainty_over_the_candidates_is_the_divergence_of_the_uniform_from_them() -> None:
    sure = side("user", 0, 1.0, candidate_logprobs=(math.log(0.2), math.log(0.05)))  # .8 and .2
    expected = -(math.log(2 * 0.8) + math.log(2 * 0.2)) / 2
    assert certainty(sure) == pytest.approx(expected)
    assert certainty(side("user", 0, 1.0, candidate_logprobs=(-3.0, -3.0))) == pytest.approx(0.0)
    assert certainty(side("user", 0, 1.0)) == 0.0
    pair: Sides = {
        "user": side("user", 1, 1.0, candidate_logprobs=(-2.0, -1.5, -3.0)),
        "item": side("item", 0, 1.0, candidate_logprobs=(-1.0, -9.0, -8.0)),
    }
    table = {row.rule: row.num_hits for row in fusion_study([example(0)], [pair])}
    assert table["certainty"] == 1


def test_a_vote_weighted_by_likelihood_lets_one_likely_output_outweigh_two_unlikely_ones() -> None:
    pair = {
        "user": side("user", 1, 1.0, perplexity_output=4.0),
        "item": side("item", 0, 1.0, perplexity_output=1.25),
    }
    # for b 1/4 and 1/4, for a 1/1.25
    voters: Sides = {**pair, "full": side("full", 1, 1.0, perplexity_output=4.0)}
    table = {row.rule: row.num_hits for row in fusion_study([example(0)], [voters])}
    assert (table["vote"], table["likelihood_vote"]) == (0, 1)
    assert "likelihood_vote" not in {row.rule for row in fusion_study([example(0)], [pair])}


def test_the_rule_that_was_best_on_validation_is_reported_on_test_as_such() -> None:
    study = fusion_study([example(n) for n in range(3)], THREE)
    assert choose_rule(study) == "item"  # 3 hits; the oracle has as many and can't be chosen
    level = fusion_study([example(0)], [THREE[2]])
    assert choose_rule(level) == "eq3"  # every rule is right
    assert choose_rule([]) is None
    test = fusion_study([example(0)], [THREE[0]], chosen="item")
    (row,) = (row for row in test if row.rule == "chosen")
    assert (row.chosen, row.num_hits) == ("item", 1)
    unmeasured = fusion_study([example(0)], [THREE[0]], chosen="vote")
    assert "chosen" not in {row.rule for row in unmeasured}


def test_an_evaluation_without_fusion_teaches_a_gate_and_no_rule(tmp_path: Path) -> None:
    dataset = write_evaluation(tmp_path, "validation")
    learned = learn(str(tmp_path / "evaluation"), dataset)
    assert learned.gate == fit_gate([example(n) for n in range(40)], outputs(40))
    assert learned.chosen is None


def test_an_evaluation_without_both_sides_teaches_temperatures_and_no_gate(tmp_path: Path) -> None:
    dataset = write_evaluation(tmp_path, "validation")
    folder = tmp_path / "evaluation"
    calibrated = CalibrationResult(
        num_users=40,
        mean_confidence=0.9,
        error=0.2,
        temperature=2.5,
        is_chosen_here=True,
        tempered_error=0.1,
    )
    found = EvaluationResult.load(str(folder))
    found.model_copy(update={"calibration": {"full": calibrated}}).save(str(folder))
    (folder / "predictions" / "user.parquet").unlink()
    learned = learn(str(folder), dataset)
    assert (learned.gate, learned.temperatures) == (None, {"full": 2.5})


def test_decisive_conflicts_are_counted_where_exactly_one_of_two_different_items_is_right() -> None:
    # Eq. 3 takes the higher perplexity where the sides differ: right for the first, wrong for nine
    sides = [both((1, 1.5), (0, 2.0))] + [both((1, 2.0), (0, 1.5))] * 9
    sides += [both((0, 1.0), (0, 2.0)), both((1, 1.0), (2, 2.0)), both((None, 1.0), (0, 2.0))]
    fused = [fuse(pair["user"], pair["item"]) for pair in sides]
    table = fusion_table([example(n) for n in range(13)], sides, fused)  # type: ignore[arg-type]
    assert table.conflicts is not None
    assert (table.conflicts.num_right, table.conflicts.num_users) == (1, 10)
    # two-sided: 2 (1 + 10) / 2^10
    assert table.conflicts.p_value == pytest.approx(22 / 1024)
