"""Figures of fusion: how often the sides agree, which wins, the gain, and the perplexities."""

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
    targets = [e.candidates.index(e.target) for e in examples]
    by_agreement: dict[Agreement, FusionCount] = {}
    for agreement in get_args(Agreement):
        chosen = [n for n, r in enumerate(fused) if r.agreement == agreement]
        by_agreement[agreement] = _count(chosen, targets, sides, fused)
    total = _count(range(len(examples)), targets, sides, fused)
    better: Side = "user" if total.user_hits >= total.item_hits else "item"
    fused_hits = [r.index == target for r, target in zip(fused, targets, strict=True)]
    side_hits = [s[better].index == target for s, target in zip(sides, targets, strict=True)]
    return FusionResult(
        total=total,
        by_agreement=by_agreement,
        gain=sum(fused_hits) - sum(side_hits),
        against_better=AgainstSide(**vars(mcnemar(fused_hits, side_hits)), side=better),
        perplexity=_perplexities(sides, fused),
        conflicts=_conflicts(targets, sides, fused),
    )


def _conflicts(
    targets: Sequence[int], sides: Sequence[Sides], fused: Sequence[Recommendation]
) -> Conflicts:
    """How often fusion takes the right side where exactly one of two different items is right."""
    from scipy.stats import binomtest  # a second to import

    decisive = [
        result.index == target
        for target, both, result in zip(targets, sides, fused, strict=True)
        if result.agreement == "differ" and target in (both["user"].index, both["item"].index)
    ]
    num_right = sum(decisive)
    p_value = float(binomtest(num_right, len(decisive)).pvalue) if decisive else 1.0
    return Conflicts(num_users=len(decisive), num_right=num_right, p_value=p_value)


def _count(
    chosen: Sequence[int],
    targets: Sequence[int],
    sides: Sequence[Sides],
    fused: Sequence[Recommendation],
) -> FusionCount:
    return FusionCount(
        num_users=len(chosen),
        user_wins=sum(fused[n].side == "user" for n in chosen),
        item_wins=sum(fused[n].side == "item" for n in chosen),
        user_hits=sum(sides[n]["user"].index == targets[n] for n in chosen),
        item_hits=sum(sides[n]["item"].index == targets[n] for n in chosen),
        fused_hits=sum(fused[n].index == targets[n] for n in chosen),
    )


def _perplexities(sides: Sequence[Sides], fused: Sequence[Recommendation]) -> Histogram:
    """Histogram of all sides' perplexities, in bins of equal width on a log scale."""
    values = {
        kind: [
            output.perplexity
            for result, both in zip(fused, sides, strict=True)
            if result.agreement == kind
            for output in (both["user"], both["item"])
            if output.perplexity is not None
        ]
        for kind in ("agree", "differ")
    }
    found = [value for kind in values.values() for value in kind]
    if not found:
        return Histogram(edges=(), agree=(), differ=())
    low, high = np.log(min(found)), np.log(max(found))
    edges = np.linspace(low, max(high, low + 1e-6), NUM_BINS + 1)
    counts = {k: np.histogram(np.log(v), edges)[0].tolist() for k, v in values.items()}
    return Histogram(edges=np.exp(edges).tolist(), **counts)
