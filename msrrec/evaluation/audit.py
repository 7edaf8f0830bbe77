"""Checks for errors that would invalidate figures: leakage, duplicates, mixed-up models.

Every check states what it examined, whether it passed or not. A failed check does not stop an
evaluation, but it is shown first in the report.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from msrrec.data.dataset import Dataset
from msrrec.evaluation.results import Check, EvaluationResult
from msrrec.inference.predictions import Prediction
from msrrec.metrics.ranking import RankMetrics
from msrrec.metrics.statistics import uniform_p_value
from msrrec.schema import SPLITS, Example
from msrrec.titles import normalize_title

logger = logging.getLogger(__name__)

VALID_BAR = 0.95
"""A lower ValidRatio fails the check."""
UNLIKELY = 0.001
"""A p-value below this means that positions are not used evenly."""


def check(name: str, text: str, failures: Sequence[object] = ()) -> Check:
    """One check: what was examined, and the first violations."""
    if not failures:
        return Check(name=name, ok=True, text=text)
    shown = ", ".join(str(failure) for failure in failures[:3])
    more = f" and {len(failures) - 3:,} more" if len(failures) > 3 else ""
    found = Check(name=name, ok=False, text=f"{text}: not so for {shown}{more}")
    logger.warning("audit: %s", found.text)
    return found


def audit_examples(dataset: Dataset, examples: Sequence[Example]) -> list[Check]:
    """Checks of the examples: leakage, duplicates and positions of targets."""
    touched, trained = _touched(dataset)
    unsound = [e for e in examples if not _is_sound(dataset, e)]
    bought = [e for e in examples if (set(e.candidates) - {e.target}) & touched[e.user_id]]
    leaked = [e for e in examples if e.target in e.history or e.target in trained[e.user_id]]
    return [
        _check_examples(
            "Candidates", "every candidate list holds its target once and no title twice", unsound
        ),
        _check_examples("Negatives", "no user has bought a negative in any split", bought),
        _check_examples(
            "Leakage", "no target is in its user's history or training examples", leaked
        ),
        _check_slots(examples),
    ]


def _check_examples(name: str, text: str, wrong: Sequence[Example]) -> Check:
    return check(name, text, [example.example_id for example in wrong])


def _touched(dataset: Dataset) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """The items of every user in all splits, and those in the training examples."""
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
    uneven = [f"slots of {min(counts)} to {max(counts)} users"] if is_uneven else []
    return check("Slots", "targets are equally often at each position", uneven)


def audit_variants(
    chance: float, variants: Mapping[str, RankMetrics], hashes: Mapping[str, str]
) -> list[Check]:
    """Checks of variants: above chance, valid answers, no preferred position, different outputs.

    Args:
        chance: The expected HitRatio@1 of a random choice.
        variants: Metrics of each variant.
        hashes: ``hash_predictions`` of each variant.
    """
    weak = [name for name, found in variants.items() if found.hit_ratio.low <= chance]
    invalid = [
        f"{name} ({found.valid_ratio.value:.1%})"
        for name, found in variants.items()
        if found.valid_ratio.value < VALID_BAR
    ]
    leaning = [
        name for name, found in variants.items() if (found.slots.uniform_p_value or 1.0) < UNLIKELY
    ]
    same = [f"{a} and {b}" for a, b in combinations(hashes, 2) if hashes[a] == hashes[b]]
    return [
        check("Chance", f"HitRatio@1 is above a random choice ({chance:.4f})", weak),
        check("Validity", f"at least {VALID_BAR:.0%} of the answers name one candidate", invalid),
        check("Position", "choices fall alike on all positions", leaning),
        check("Variants", "no two variants gave the same outputs for every user", same),
    ]


def hash_predictions(examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    """A hash (16 hexadecimal digits) of a variant's outputs and choices."""
    digest = hashlib.sha256()
    for example, prediction in zip(examples, predictions, strict=True):
        item_id = prediction.item_id(example.candidates)
        for value in (prediction.example_id, prediction.output.text, item_id or ""):
            digest.update(f"{value}\x1f".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


_ONE_MODEL = {"msrrec", "msrrec-direct"}
"""Ids of two systems that are one model, read with and without its reasoning."""


def audit_systems(results: Sequence[EvaluationResult]) -> list[Check]:
    """Checks across evaluations: missing controls, mixed-up models, and unlike prompts."""
    pairs = [
        (a, b) for a, b in combinations(results, 2) if _same_users(a, b) and a.config == b.config
    ]
    weights = [
        f"{a.system.label} and {b.system.label}"
        for a, b in pairs
        if a.weights_hash and a.weights_hash == b.weights_hash and a.system != b.system
        if {a.system.id, b.system.id} != _ONE_MODEL
    ]
    forms = [
        f"{a.system.label} and {b.system.label}"
        for a, b in pairs
        if a.model and b.model and a.model.form != b.model.form
    ]
    outputs = [
        f"{a.system.label} {name} and {b.system.label} {other}"
        for a, b in pairs
        for name, found in a.variants.items()
        for other, its in b.variants.items()
        if found.outputs_hash == its.outputs_hash
    ]
    kinds = {result.system.kind for result in results}
    is_there = {
        "random": any(result.system.id == "random" for result in results),
        "the untrained backbone": "base" in kinds,
    }
    missing = [name for name, found in is_there.items() if not found and kinds != {"baseline"}]
    return [
        check("Weights", "systems of different names loaded different weights", weights),
        check("Prompts", "all models are prompted in the same form", forms),
        check("Outputs", "no two systems gave the same outputs for every user", outputs),
        check("Control", "control systems are evaluated beside trained ones", missing),
    ]


def _same_users(first: EvaluationResult, second: EvaluationResult) -> bool:
    parts = [(r.dataset, r.split, r.num_users) for r in (first, second)]
    return parts[0] == parts[1]
