"""Figures of fusion: how often the sides agree, which wins, the gain, and the perplexities."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from msrrec.evaluation.results import AgainstSide, Conflicts, FusionCount, FusionResult, Histogram
from msrrec.inference.fusion import Agreement, Recommendation, SideOutput
from msrrec.metrics.statistics import mcnemar
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

NUM_BINS = 24

Sides = Mapping[Side, SideOutput]


def fusion_table(
    examples: Sequence[Example], sides: Sequence[Sides], fused: Sequence[Recommendation]
) -> FusionResult:
    """Fusion in figures, by agreement and in total, without the study of other rules.

    Args:
        examples: One example per user.
        sides: The ``user`` and ``item`` outputs of each example.
        fused: The fused recommendation of each example.
    """
    tally = FusionTally()
    tally.add(examples, sides, fused)
    return tally.result()


class FusionTally:
    """What ``fusion_table`` needs of the users so far: counts, and some 20 bytes a user."""

    def __init__(self) -> None:
        self._counts = {agreement: Counter[str]() for agreement in get_args(Agreement)}
        self._hits: dict[str, bytearray] = {n: bytearray() for n in ("user", "item", "fused")}
        self._perplexities = {kind: array("d") for kind in ("agree", "differ")}
        self._num_decisive = self._num_right = 0

    def add(
        self, examples: Sequence[Example], sides: Sequence[Sides], fused: Sequence[Recommendation]
    ) -> None:
        """Add users; arguments as of ``fusion_table``."""
        for example, both, result in zip(examples, sides, fused, strict=True):
            self._add(example.target_slot, both, result)

    def _add(self, target: int, both: Sides, result: Recommendation) -> None:
        hits = {
            "user": both["user"].index == target,
            "item": both["item"].index == target,
            "fused": result.index == target,
        }
        counts = self._counts[result.agreement]
        counts["num_users"] += 1
        for name, is_hit in hits.items():
            counts[f"{name}_hits"] += is_hit
            self._hits[name].append(is_hit)
        if result.side in ("user", "item"):
            counts[f"{result.side}_wins"] += 1
        if result.agreement == "differ" and target in (both["user"].index, both["item"].index):
            self._num_decisive += 1
            self._num_right += hits["fused"]
        for output in (both["user"], both["item"]):
            if result.agreement in self._perplexities and output.perplexity is not None:
                self._perplexities[result.agreement].append(output.perplexity)

    def result(self) -> FusionResult:
        """The figures of all users that were added."""
        total = _fusion_count(sum(self._counts.values(), Counter()))
        better: Side = "user" if total.user_hits >= total.item_hits else "item"
        fused_hits, side_hits = self._hits["fused"], self._hits[better]
        return FusionResult(
            total=total,
            by_agreement={kind: _fusion_count(found) for kind, found in self._counts.items()},
            gain=sum(fused_hits) - sum(side_hits),
            against_better=AgainstSide(**vars(mcnemar(fused_hits, side_hits)), side=better),
            perplexity=_histogram(self._perplexities),
            conflicts=_conflicts(self._num_right, self._num_decisive),
        )


def _fusion_count(counts: Mapping[str, int]) -> FusionCount:
    return FusionCount(**{name: counts.get(name, 0) for name in FusionCount.model_fields})


def _conflicts(num_right: int, num_decisive: int) -> Conflicts:
    """How often fusion takes the right side where exactly one of two different items is right."""
    from scipy.stats import binomtest  # a second to import

    p_value = float(binomtest(num_right, num_decisive).pvalue) if num_decisive else 1.0
    return Conflicts(num_users=num_decisive, num_right=num_right, p_value=p_value)


def _histogram(values: Mapping[str, "array[float]"]) -> Histogram:
    """Histogram of all sides' perplexities, in bins of equal width on a log scale."""
    ends = [f(kind) for kind in values.values() if kind for f in (min, max)]
    if not ends:
        return Histogram(edges=(), agree=(), differ=())
    low, high = np.log(min(ends)), np.log(max(ends))
    edges = np.linspace(low, max(high, low + 1e-6), NUM_BINS + 1)
    counts = {k: np.histogram(np.log(v), edges)[0].tolist() for k, v in values.items()}
    return Histogram(edges=np.exp(edges).tolist(), **counts)
