from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.samples import (
    Sampled,
    after_lowest_perplexity,
    load_samples,
    most_named,
    of_likeliest_text,
    render,
)
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.schema import Example
from tests.support.evaluation import NUM_USERS, write_evaluated_users
from tests.support.results import evaluation_result, system_id, variant_result


def output(
    index: int | None, perplexity: float = 2.0, of_output: float = 2.0, num_tokens: int = 10
) -> SideOutput:
    return SideOutput("item", "", "", index, perplexity, num_tokens, perplexity_output=of_output)


def write_samples(
    folder: Path, examples: Sequence[Example], path: str, *samples: Sequence[int | None]
) -> str:
    """An evaluation whose n-th sample chooses these slots, one for each user."""
    drawn = [
        [Prediction(e.example_id, output(i), n) for e, i in zip(examples, slots, strict=True)]
        for n, slots in enumerate(samples)
    ]
    lists = {example.example_id: example.candidates for example in examples}
    write_predictions(f"{folder}/predictions/item.parquet", drawn[0], lists)
    if len(drawn) > 1:
        # Further samples lie user by user, beside those of other sides.
        rows = [p for users in zip(*drawn[1:], strict=True) for p in users]
        other = Prediction(examples[0].example_id, SideOutput("user", "", "", 0, 2.0, 10), 0)
        write_predictions(f"{folder}/predictions/samples.parquet", [*rows, other], lists)
    result = evaluation_result(
        system_id("m", "trained"),
        {"item": variant_result()},
        num_users=len(examples),
        inference={"num_samples": len(samples), "temperature": 0.7 if len(samples) > 1 else 0},
    )
    placed = result.dataset.model_copy(update={"path": path})
    result.model_copy(update={"dataset": placed}).save(str(folder))
    return str(folder)


def test_a_rule_chooses_by_votes_perplexity_or_likelihood() -> None:
    outputs = [output(1, 1.5, 1.5, 10), output(2, 1.2, 1.6, 10), output(2, 3.0, 3.0, 3)]
    assert most_named(outputs) == 2
    assert most_named(outputs[:2]) == 1  # one vote each: the first
    assert after_lowest_perplexity(outputs) == 2
    assert of_likeliest_text(outputs) == 2  # 3 tokens at 3 are likelier than 10 at 1.5
    assert of_likeliest_text(outputs[:2]) == 1
    for rule in (most_named, after_lowest_perplexity, of_likeliest_text):
        assert rule([output(None, 1.0, 1.1), outputs[0]]) == 1  # an invalid answer has no vote
        assert rule([output(None)]) is None


def test_several_chains_stand_beside_a_single_one(tmp_path: Path) -> None:
    dataset = write_evaluated_users(tmp_path / "dataset")
    examples = dataset.examples("test")
    right = [example.candidates.index("right") for example in examples]
    wrong = [(slot + 1) % 3 for slot in right]
    nobody: list[int | None] = [None] * NUM_USERS
    greedy = write_samples(tmp_path / "greedy", examples, dataset.path, right)
    sampled = write_samples(
        tmp_path / "sampled", examples, dataset.path, [*wrong[:6], *right[6:]], right, nobody
    )
    text = render([load_samples("m", greedy), load_samples("m", sampled)])
    lines = text.splitlines()
    (one,) = [line for line in lines if line.startswith("| m | 0 |")]
    assert one.startswith("| m | 0 | 1 | 10 | 1.0000 | 1.0000 ")
    cells = [line.split(" | ") for line in lines if line.startswith("| m | 0.7 |")]
    assert [row[2:5] for row in cells] == [
        ["1", "10", "0.5000"],
        ["2", "20", "0.7500"],
        ["3", "30", "0.5000"],
    ]
    assert [row[5][:6] for row in cells] == ["0.5000"] * 3  # a tie goes to the first
    assert [row[8] for row in cells] == ["0.5000 |", "1.0000 |", "1.0000 |"]
    # One chain is always right; of three, two are for six users and one for the others.
    assert "m, one output at temperature 0 minus one at 0.7, mean over 3: +50.0 points [" in text
    assert text.splitlines()[-1].startswith("12 users of test.")


def test_evaluations_of_other_users_or_several_variants_are_refused(tmp_path: Path) -> None:
    first = Sampled("a", "test", 0.0, {"e1": [output(0)]}, [0])
    other = Sampled("b", "test", 0.0, {"e2": [output(0)]}, [0])
    with pytest.raises(ValueError, match="different users; expected the same of all"):
        render([first, other])
    variants = {"user": variant_result(), "item": variant_result()}
    evaluation_result(system_id("m", "trained"), variants).save(str(tmp_path))
    with pytest.raises(ValueError, match="found the variants user, item; expected one"):
        load_samples("a", str(tmp_path))
