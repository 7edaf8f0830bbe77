from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.evaluation.consistency import changed_choices, permute
from msrrec.schema import Example

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
    folder: Path, choices: str, permutation: int = 0, seed: int = 0, system: str = "MSR-Rec"
) -> tuple[str, dict[str, Any]]:
    """One letter a user; ``-`` is an invalid answer."""
    rows = [
        {
            "example_id": f"e{n}",
            "side": "user",
            "text": "",
            "reasoning": "",
            "item_id": None if choice == "-" else choice,
            "num_tokens": 0,
            "seed": 0,
        }
        for n, choice in enumerate(choices)
    ]
    table = pa.Table.from_pylist(rows, schema=schema.PREDICTIONS)
    storage.write_table(str(folder / "predictions" / "user.parquet"), table)
    hit_ratio = choices.count("a") / len(choices)
    metrics = {
        "system": system,
        "system_kind": "trained",
        "dataset": {"fingerprint": "f"},
        "split": "test",
        "num_users": len(choices),
        "variants": {"user": {"hit_ratio": {"value": hit_ratio}}},
        "config": {"evaluate": {"permutation": permutation}, "inference": {"seed": seed}},
    }
    return str(folder), metrics


def test_changed_choices_are_counted_apart_for_another_order_and_another_seed(
    tmp_path: Path,
) -> None:
    found = changed_choices(
        [
            evaluation(tmp_path / "plain", "aab-"),
            evaluation(tmp_path / "turned", "abc-", permutation=1),
            evaluation(tmp_path / "seeded", "aaba", seed=1),
            evaluation(tmp_path / "other", "cccc", permutation=1, system="other"),
        ]
    )
    assert [(row["differs"], row["changed"]["value"]) for row in found] == [
        ("order", 0.5),
        ("seed", 0.25),
    ]
    assert found[0]["hit_ratios"] == [0.5, 0.25]
