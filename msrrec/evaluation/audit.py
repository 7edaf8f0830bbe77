"""What would make the figures worthless, looked for every time: leakage, duplicates, mix-ups.

A check tells what it looked at whether it passed or not, so that a reader knows what was asked. A
failed one does not stop an evaluation; it is shown before anything else in the report.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from msrrec import schema
from msrrec.data.dataset import Dataset
from msrrec.metrics.statistics import uniform_p_value
from msrrec.schema import SPLITS, Example
from msrrec.titles import normalize_title

logger = logging.getLogger(__name__)

VALID_BAR = 0.95
"""A lower ValidRatio is remarked on."""
UNLIKELY = 0.001
"""Slots more uneven than this are no accident."""


Check = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def check(name: str, text: str, failures: Sequence[object] = ()) -> Check:
    """One check: what was looked at, and the first of what was found against it."""
    if not failures:
        return {"name": name, "ok": True, "text": text}
    shown = ", ".join(str(failure) for failure in failures[:3])
    more = f" and {len(failures) - 3:,} more" if len(failures) > 3 else ""
    found = {"name": name, "ok": False, "text": f"{text}: not so for {shown}{more}"}
    logger.warning("audit: %s", found["text"])
    return found


def audit_examples(dataset: Dataset, examples: Sequence[Example]) -> list[Check]:
    """Leakage, duplicates and slots of the examples that were evaluated."""
    touched, trained = _touched(dataset)
    unsound = [e for e in examples if not _is_sound(dataset, e)]
    bought = [e for e in examples if (set(e.candidates) - {e.target}) & touched[e.user_id]]
    leaked = [e for e in examples if e.target in e.history or e.target in trained[e.user_id]]
    return [
        _check_examples(
            "Candidates", "every candidate list holds its target once and no title twice", unsound
        ),
        _check_examples("Negatives", "no user has touched a negative in any split", bought),
        _check_examples(
            "Leakage", "no target is in its user's history or training examples", leaked
        ),
        _check_slots(examples),
    ]


def _check_examples(name: str, text: str, wrong: Sequence[Example]) -> Check:
    return check(name, text, [example.example_id for example in wrong])


def _touched(dataset: Dataset) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """The items of every user in all splits, and in the training examples alone."""
    touched: defaultdict[str, set[str]] = defaultdict(set)
    trained: defaultdict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for example in dataset.examples(split):
            touched[example.user_id].update(example.history, [example.target])
            if split == "train":
                trained[example.user_id].update(example.history, [example.target])
    return touched, trained


def _is_sound(dataset: Dataset, example: Example) -> bool:
    titles = [normalize_title(title) for title in dataset.titles(example.candidates)]
    return example.candidates.count(example.target) == 1 and len({*titles}) == len(titles)


def _check_slots(examples: Sequence[Example]) -> Check:
    counts = [0] * max(len(example.candidates) for example in examples)
    for example in examples:
        counts[example.candidates.index(example.target)] += 1
    p_value = uniform_p_value(counts)
    is_uneven = p_value is not None and p_value < UNLIKELY
    told = [f"slots of {min(counts)} to {max(counts)} users"] if is_uneven else []
    return check("Slots", "targets stand equally often at each position", told)


def audit_variants(
    chance: float, variants: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Rows]
) -> list[Check]:
    """Whether each variant beats chance, answers, has no favourite position, and is its own."""
    shares = {name: found["hit_ratio"] for name, found in variants.items()}
    weak = [name for name, share in shares.items() if share["low"] <= chance]
    invalid = [
        f"{name} ({found['valid_ratio']['value']:.1%})"
        for name, found in variants.items()
        if found["valid_ratio"]["value"] < VALID_BAR
    ]
    leaning = [
        name
        for name, found in variants.items()
        if (found["slots"]["uniform_p_value"] or 1.0) < UNLIKELY
    ]
    same = [
        f"{a} and {b}" for a, b in combinations(rows, 2) if hash_rows(rows[a]) == hash_rows(rows[b])
    ]
    return [
        check("Chance", f"HitRatio@1 is above a random choice ({chance:.4f})", weak),
        check("Validity", f"at least {VALID_BAR:.0%} of the answers name one candidate", invalid),
        check("Position", "choices fall alike on all positions", leaning),
        check("Variants", "no two variants gave the same outputs for every user", same),
    ]


def hash_rows(rows: Rows) -> str:
    """16 hexadecimal digits of what a variant wrote and chose, whatever it is called."""
    digest = hashlib.sha256()
    for row in rows:
        for value in (row["example_id"], row["text"], row[schema.ITEM_ID] or ""):
            digest.update(f"{value}\x1f".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def audit_systems(systems: Sequence[Mapping[str, Any]]) -> list[Check]:
    """What only shows between evaluations: controls that are missing, and mix-ups of models.

    Args:
        systems: The metrics.json of each.
    """
    pairs = [
        (a, b)
        for a, b in combinations(systems, 2)
        if _same_users(a, b) and a["config"] == b["config"]
    ]
    weights = [
        f"{a['system']} and {b['system']}"
        for a, b in pairs
        if _weights(a) and _weights(a) == _weights(b) and a["system"] != b["system"]
    ]
    outputs = [
        f"{a['system']} {name} and {b['system']} {other}"
        for a, b in pairs
        for name, found in a["variants"].items()
        for other, its in b["variants"].items()
        if found["outputs_hash"] == its["outputs_hash"]
    ]
    kinds = {metrics["system_kind"] for metrics in systems}
    is_there = {
        "random": any(metrics["system"] == "random" for metrics in systems),
        "the untrained backbone": "base" in kinds,
    }
    missing = [name for name, found in is_there.items() if not found and kinds != {"baseline"}]
    return [
        check("Weights", "systems of different names loaded different weights", weights),
        check("Outputs", "no two systems gave the same outputs for every user", outputs),
        check("Control", "the controls are evaluated beside the trained", missing),
    ]


def _same_users(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(first[k] == second[k] for k in ("dataset", "split", "num_users"))


def _weights(metrics: Mapping[str, Any]) -> str | None:
    found: str | None = metrics.get("model", {}).get("weights_hash")
    return found
