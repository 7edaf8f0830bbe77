from collections import Counter
from pathlib import Path

from msrrec.evaluation.consistency import changed_choices
from msrrec.evaluation.examples import permute
from msrrec.evaluation.results import EvaluationResult
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.metrics.ranking import rank_metrics
from msrrec.schema import Example
from tests.support.results import evaluation_result, system_id, variant_result

EXAMPLES = [Example(f"e{n}", f"u{n}", ("h",), "a", ("a", "b", "c")) for n in range(300)]


def test_a_permutation_keeps_the_candidates_and_moves_the_target_evenly() -> None:
    permuted = permute(EXAMPLES, 1)
    assert all(sorted(e.candidates) == ["a", "b", "c"] and e.target == "a" for e in permuted)
    slots = Counter(e.candidates.index("a") for e in permuted)
    assert all(75 < slots[n] < 125 for n in range(3))
    assert permute(EXAMPLES, 1) == permuted
    assert permute(EXAMPLES, 2) != permuted
    assert permute(EXAMPLES, 0) == EXAMPLES


def evaluation(
    folder: Path,
    choices: str,
    permutation: int = 0,
    seed: int = 0,
    label: str = "MSR-Rec",
    temperature: float = 0.7,
) -> tuple[str, EvaluationResult]:
    """One letter a user; ``-`` is an invalid answer."""
    examples = EXAMPLES[: len(choices)]
    indices = [None if choice == "-" else "abc".index(choice) for choice in choices]
    predictions = [
        Prediction(e.example_id, SideOutput("user", "", "", index, None, 0), 0)
        for e, index in zip(examples, indices, strict=True)
    ]
    candidates = {e.example_id: e.candidates for e in examples}
    write_predictions(f"{folder}/predictions/user.parquet", predictions, candidates)
    items = [None if choice == "-" else choice for choice in choices]
    result = evaluation_result(
        system_id(label, "trained", name="msrrec"),
        {"user": variant_result(rank_metrics(examples, items))},
        evaluate={"permutation": permutation},
        inference={"seed": seed, "temperature": temperature},
    )
    return str(folder), result


def test_changed_choices_are_counted_apart_for_another_order_and_another_seed(
    tmp_path: Path,
) -> None:
    found = changed_choices(
        [
            evaluation(tmp_path / "plain", "aab-"),
            evaluation(tmp_path / "turned", "abc-", permutation=1),
            evaluation(tmp_path / "seeded", "aaba", seed=1),
            evaluation(tmp_path / "other", "cccc", permutation=1, label="other"),
            evaluation(tmp_path / "greedy", "cccc", seed=2, temperature=0.0),
        ]
    )
    assert [(row.differs, row.changed.value) for row in found] == [
        ("order", 0.5),
        ("seed", 0.25),
    ]
    assert found[0].hit_ratios == (0.5, 0.25)
