"""How often a choice changes when nothing but the order of the candidates does.

Sampling alone changes choices too: the same share between two seeds is what to hold it against.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from random import Random
from typing import Any

from msrrec import schema, storage
from msrrec.metrics.statistics import wilson
from msrrec.schema import Example


def permute(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples with every candidate list shuffled; 0 leaves them in the frozen order."""
    if not seed:
        return list(examples)
    permuted = []
    for example in examples:
        candidates = list(example.candidates)
        Random(f"{seed}:{example.example_id}").shuffle(candidates)
        permuted.append(replace(example, candidates=tuple(candidates)))
    return permuted


def changed_choices(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each two evaluations of one system on the same users: how often its variants differ.

    Args:
        evaluations: Folder and metrics.json of each. Two are compared where they differ in
            permutation or seed and in nothing else.
    """
    rows = []
    for (path, one), (other_path, other) in combinations(evaluations, 2):
        what = _difference(one, other)
        if what is None:
            continue
        for variant in one["variants"].keys() & other["variants"].keys():
            first, second = _choices(path, variant), _choices(other_path, variant)
            num_changed = sum(a != b for a, b in zip(first, second, strict=True))
            share = wilson(num_changed, len(first))
            rows.append(
                {
                    "system": one["system"],
                    "variant": variant,
                    "differs": what,
                    "changed": asdict(share) if share else None,
                    "hit_ratios": [
                        metrics["variants"][variant]["hit_ratio"]["value"]
                        for metrics in (one, other)
                    ],
                }
            )
    return sorted(rows, key=lambda row: (row["system"], row["variant"], row["differs"]))


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """``order`` or ``seed`` where that is all in which two evaluations differ, else None."""
    same = all(one[k] == other[k] for k in ("system", "dataset", "split", "num_users"))
    if not same or one["system_kind"] == "baseline":
        return None
    orders, seeds = (
        [metrics["config"][section][key] for metrics in (one, other)]
        for section, key in (("evaluate", "permutation"), ("inference", "seed"))
    )
    if (orders[0] == orders[1]) == (seeds[0] == seeds[1]):
        return None
    return "seed" if orders[0] == orders[1] else "order"


def _choices(path: str, variant: str) -> list[str | None]:
    """The item ids, by example id."""
    file = storage.join(path, "predictions", f"{variant}.parquet")
    rows = storage.read_table(file, schema.PREDICTIONS).to_pylist()
    return [row[schema.ITEM_ID] for row in sorted(rows, key=lambda row: str(row["example_id"]))]
