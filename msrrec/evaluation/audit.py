"""Checks for errors that would invalidate figures: leakage, duplicates, mixed-up models.

Every check states what it examined, whether it passed or not. A failed check does not stop an
evaluation, but it is shown first in the report.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from msrrec.data.dataset import Dataset
from msrrec.data.touched import touched_items
from msrrec.evaluation.results import Check, EvaluationResult
from msrrec.inference.predictions import Prediction
from msrrec.metrics.ranking import RankMetrics
from msrrec.metrics.statistics import uniform_p_value
from msrrec.schema import Example
from msrrec.titles import normalize_title

logger = logging.getLogger(__name__)

VALID_BAR = 0.95
"""A lower ValidRatio fails the check."""
_NUM_SHOWN = 3
UNLIKELY = 0.001
"""A p-value below this means that positions are not used evenly."""


def check(
    name: str, text: str, failures: Sequence[object] = (), num_failures: int | None = None
) -> Check:
    """One check: what was examined, and the first violations.

    Args:
        name: Name of the check.
        text: What was examined.
        failures: Violations, at least the first few.
        num_failures: Number of all violations; None: those given are all.
    """
    if not failures:
        return Check(name=name, ok=True, text=text)
    count = len(failures) if num_failures is None else num_failures
    shown = ", ".join(str(failure) for failure in failures[:_NUM_SHOWN])
    more = f" and {count - _NUM_SHOWN:,} more" if count > _NUM_SHOWN else ""
    found = Check(name=name, ok=False, text=f"{text}: not so for {shown}{more}")
    logger.warning("audit: %s", found.text)
    return found


def audit_examples(dataset: Dataset, examples: Sequence[Example]) -> list[Check]:
    """Checks of the examples: leakage, duplicates and positions of targets."""
    audit = ExampleAudit(dataset)
    audit.add(examples)
    return audit.result()


@dataclass
class _Violations:
    """The first examples that fail a check, and the number of all."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, example: Example) -> None:
        self.count += 1
        if len(self.first) < _NUM_SHOWN:
            self.first.append(example.example_id)

    def result(self, name: str, text: str) -> Check:
        return check(name, text, self.first, self.count)


class ExampleAudit:
    """The checks of ``audit_examples``, to which examples are added in partitions.

    Of the dataset it keeps 8 bytes for each different purchase of a user.
    """

    def __init__(self, dataset: Dataset, *, is_retrieved: bool = False) -> None:
        """Check examples of a dataset.

        Args:
            dataset: The dataset.
            is_retrieved: Whether candidates were retrieved: then a target may be missing, it stands
                first more often than last, and retrieval can't know what is bought later.
        """
        self._dataset, self._is_retrieved = dataset, is_retrieved
        self._touched, self._trained = touched_items(dataset)
        self._unsound, self._bought, self._leaked = (_Violations() for _ in range(3))
        self._slots, self._longest = Counter[int](), 0

    def add(self, examples: Sequence[Example]) -> None:
        """Check some examples."""
        negatives = [sorted({*e.candidates} - {e.target}) for e in examples]
        touched = self._touched.find([e.user_id for e in examples], negatives)
        trained = self._trained.find([e.user_id for e in examples], [[e.target] for e in examples])
        for example, is_touched, is_trained in zip(examples, touched, trained, strict=True):
            if not _is_sound(self._dataset, example, self._is_retrieved):
                self._unsound.add(example)
            if is_touched:
                self._bought.add(example)
            if is_trained or example.target in example.history:
                self._leaked.add(example)
            self._longest = max(self._longest, len(example.candidates))
            self._slots[example.target_slot] += 1

    def result(self) -> list[Check]:
        """The checks of all examples that were added."""
        leakage = self._leaked.result(
            "Leakage", "no target is in its user's history or training examples"
        )
        if self._is_retrieved:
            sound = "every list of retrieved candidates holds no item and no title twice"
            return [self._unsound.result("Candidates", sound), leakage]
        return [
            self._unsound.result(
                "Candidates", "every candidate list holds its target once and no title twice"
            ),
            self._bought.result("Negatives", "no user has bought a negative in any split"),
            leakage,
            _check_slots([self._slots[slot] for slot in range(self._longest)]),
        ]


def _is_sound(dataset: Dataset, example: Example, is_retrieved: bool) -> bool:
    titles = [normalize_title(title) for title in dataset.titles(example.candidates)]
    has_target = is_retrieved or example.candidates.count(example.target) == 1
    return has_target and len({*titles}) == len(titles)


def _check_slots(counts: Sequence[int]) -> Check:
    p_value = uniform_p_value(counts)
    is_uneven = p_value is not None and p_value < UNLIKELY
    uneven = [f"slots of {min(counts)} to {max(counts)} users"] if is_uneven else []
    return check("Slots", "targets are equally often at each position", uneven)


def audit_variants(
    chance: float,
    variants: Mapping[str, RankMetrics],
    hashes: Mapping[str, str],
    *,
    is_ranked: bool = False,
) -> list[Check]:
    """Checks of variants: above chance, valid answers, no preferred position, different outputs.

    Args:
        chance: The expected HitRatio@1 of a random choice.
        variants: Metrics of each variant.
        hashes: ``hash_predictions`` of each variant.
        is_ranked: Whether candidates stand in an order that may guide a choice, such as that of
            retrieval.
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
        *[check("Position", "choices fall alike on all positions", leaning)] * (not is_ranked),
        check("Variants", "no two variants gave the same outputs for every user", same),
    ]


def hash_predictions(examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    """A hash (16 hexadecimal digits) of a variant's outputs and choices."""
    digest = OutputHash()
    digest.add(examples, predictions)
    return digest.result()


class OutputHash:
    """The hash of ``hash_predictions``, to which predictions are added in partitions."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
        """Add predictions for some examples, in their order."""
        for example, prediction in zip(examples, predictions, strict=True):
            item_id = prediction.item_id(example.candidates)
            for value in (prediction.example_id, prediction.output.text, item_id or ""):
                self._digest.update(f"{value}\x1f".encode(errors="surrogatepass"))

    def result(self) -> str:
        """The first 16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]


_ONE_MODEL = {"msrrec", "msrrec-direct", "msrrec-routed"}
"""Ids of systems that are one model, read with its reasoning, without it, or by the route."""


def audit_systems(results: Sequence[EvaluationResult]) -> list[Check]:
    """Checks across evaluations: missing controls, mixed-up models, and unlike prompts."""
    pairs = [
        (a, b) for a, b in combinations(results, 2) if _same_users(a, b) and a.config == b.config
    ]
    weights = [
        f"{a.system.label} and {b.system.label}"
        for a, b in pairs
        if a.weights_hash and a.weights_hash == b.weights_hash and a.system != b.system
        if not _is_one_model(a, b)
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


def _is_one_model(first: EvaluationResult, second: EvaluationResult) -> bool:
    """Whether both are readings of one model that have ids of their own."""
    ids = {result.system.id.removesuffix("-constrained") for result in (first, second)}
    return len(ids) == 2 and ids <= _ONE_MODEL


def _same_users(first: EvaluationResult, second: EvaluationResult) -> bool:
    parts = [(r.dataset, r.split, r.num_users) for r in (first, second)]
    return parts[0] == parts[1]
