import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.samples import (
    Sampled,
    after_lowest_perplexity,
    load_samples,
    most_named,
    of_likeliest_text,
    render,
)
from tests.support.evaluation import write_evaluated_users
from tests.support.results import evaluation_result, system_id, variant_result
from tests.support.samples import output, write_samples


def test_a_rule_chooses_by_votes_perplexity_or_likelihood() -> None:
    outputs = [output(1, 1.5, 1.5, 10), output(2, 1.2, 1.6, 10), output(0, 3.0, 3.0, 3)]
    assert after_lowest_perplexity(outputs) == 2
    assert of_likeliest_text(outputs) == 0  # 3 tokens at 3 are likelier than 10 at 1.5
    assert of_likeliest_text(outputs[:2]) == 1
    assert most_named([*outputs, output(2)]) == 2
    for rule in (most_named, after_lowest_perplexity, of_likeliest_text):
        assert rule([output(None, 1.0, 1.1), outputs[0]]) == 1  # an invalid answer has no vote
        assert rule([output(None)]) is None
        assert rule([output(1), output(2)]) == 1  # the first of equals
    assert after_lowest_perplexity([output(0, None), output(1, 9.0)]) == 1


def wrong(slot: int) -> int:
    return (slot + 1) % 3


def test_several_outputs_stand_beside_a_single_one(tmp_path: Path) -> None:
    dataset = write_evaluated_users(tmp_path / "dataset")
    greedy = write_samples(
        tmp_path / "greedy", dataset, lambda slot: output(slot, None, 2.0, 4), temperature=0
    )
    sampled = write_samples(
        tmp_path / "sampled",
        dataset,
        lambda slot: output(wrong(slot), 2.0, 2.0, 10),
        lambda slot: output(slot, 1.5, 3.0, 20),  # its chain is likelier, its text is not
        lambda slot: output(None, 1.0, 1.0, 30),
        lambda slot: output(wrong(slot), 2.0, 1.2, 40),
    )
    evaluations = [load_samples("m", greedy), load_samples("m", sampled)]
    lines = render([*evaluations, replace(evaluations[0], name="n")]).splitlines()
    none, every = "0.0000 [0.000, 0.242]", "1.0000 [0.758, 1.000]"
    rows = [line for line in lines if line.startswith(("| m ", "| n "))]
    assert rows == [
        f"| m | 0 | 1 | 4 | 1.0000 | {every} | – | {every} | 1.0000 |",
        f"| m | 0.7 | 1 | 25 | 0.0000 | {none} | {none} | {none} | 0.0000 |",
        f"| m | 0.7 | 2 | 50 | 0.5000 | {none} | {every} | {none} | 1.0000 |",
        f"| m | 0.7 | 3 | 75 | 0.3333 | {none} | {every} | {none} | 1.0000 |",
        f"| m | 0.7 | 4 | 100 | 0.2500 | {none} | {every} | {none} | 1.0000 |",
        f"| n | 0 | 1 | 4 | 1.0000 | {every} | – | {every} | 1.0000 |",
    ]
    compared = [line for line in lines if "minus" in line]
    # Every user has 1 of 1 right, and 1 of 4; no model is compared with another.
    one = "- m, one output at temperature 0 (mean over 1) minus"
    of_four = f"{one} the one of 4 at 0.7"
    assert compared == [
        f"{one} one at 0.7 (mean over 4): +75.0 points [+75.0, +75.0].",
        f"{of_four} (named by most): +100.0 points [+100.0, +100.0].",
        f"{of_four} (after the chain of lowest perplexity): +0.0 points [+0.0, +0.0].",
        f"{of_four} (likeliest text): +100.0 points [+100.0, +100.0].",
    ]
    assert lines[-1].startswith("12 users of test.")
    turned = [
        line for line in render([evaluations[1], evaluations[0]]).splitlines() if "minus" in line
    ]
    # A single output has no rules to choose by.
    assert turned == [
        "- m, one output at temperature 0.7 (mean over 4) minus one at 0 (mean over 1): -75.0 "
        "points [-75.0, -75.0]."
    ]


def test_outputs_that_are_missing_or_of_another_dataset_are_refused(tmp_path: Path) -> None:
    dataset = write_evaluated_users(tmp_path / "dataset")
    folder = write_samples(tmp_path / "sampled", dataset, output, output)
    rows = pq.read_table(f"{folder}/predictions/samples.parquet")
    pq.write_table(rows.slice(0, rows.num_rows - 1), f"{folder}/predictions/samples.parquet")
    with pytest.raises(ValueError, match="a user lacks outputs; expected 2 for each"):
        load_samples("m", folder)
    manifest = {**dataset.manifest, "fingerprint": "other"}
    (tmp_path / "dataset" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is another dataset by now; evaluate again"):
        load_samples("m", folder)


def test_evaluations_of_other_users_or_several_variants_are_refused(tmp_path: Path) -> None:
    first = Sampled("a", "test", 0.0, {"e1": [output(0)]}, [0])
    other = Sampled("b", "test", 0.0, {"e2": [output(0)]}, [0])
    with pytest.raises(ValueError, match="different users; expected the same of all"):
        render([first, other])
    variants = {"user": variant_result(), "item": variant_result()}
    evaluation_result(system_id("m", "trained"), variants).save(str(tmp_path))
    with pytest.raises(ValueError, match="found the variants user, item; expected one"):
        load_samples("a", str(tmp_path))
