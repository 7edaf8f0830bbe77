"""How often choices change when only the order of the candidates changes.

Sampling alone also changes choices, so compare with the same share between two seeds.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

from msrrec.evaluation.document import Result
from msrrec.evaluation.results import EvaluationResult
from msrrec.inference.predictions import predictions_path, read_choices
from msrrec.metrics.statistics import Share, wilson

Difference = Literal["order", "seed"]


class ChangedChoices(Result):
    """Two evaluations of one system that differ in one setting."""

    system: str
    """Label of the system."""
    variant: str
    differs: Difference
    changed: Share | None
    """Share of users with another choice."""
    hit_ratios: tuple[float, float]
    """HitRatio@1 of both evaluations."""


def changed_choices(
    evaluations: Sequence[tuple[str, EvaluationResult]],
) -> list[ChangedChoices]:
    """How often choices differ, for each pair of evaluations of one system on the same users.

    Args:
        evaluations: Folder and result of each. Two are compared if they differ only in permutation
            or seed.
    """
    rows = [
        _compare((path, one), (other_path, other), variant, what)
        for (path, one), (other_path, other) in combinations(evaluations, 2)
        if (what := _difference(one, other))
        for variant in one.variants.keys() & other.variants.keys()
    ]
    return sorted(rows, key=lambda row: (row.system, row.variant, row.differs))


def _compare(
    one: tuple[str, EvaluationResult],
    other: tuple[str, EvaluationResult],
    variant: str,
    differs: Difference,
) -> ChangedChoices:
    first, second = _choices(one[0], variant), _choices(other[0], variant)
    num_changed = sum(a != b for a, b in zip(first, second, strict=True))
    return ChangedChoices(
        system=one[1].system.label,
        variant=variant,
        differs=differs,
        changed=wilson(num_changed, len(first)),
        hit_ratios=(
            one[1].variants[variant].hit_ratio.value,
            other[1].variants[variant].hit_ratio.value,
        ),
    )


def _difference(one: EvaluationResult, other: EvaluationResult) -> Difference | None:
    """The one setting in which two evaluations differ, else None."""
    if _identity(one) != _identity(other) or one.system.kind in ("baseline", "file"):
        return None
    is_same_order = one.config.evaluate.permutation == other.config.evaluate.permutation
    is_same_seed = one.config.inference.seed == other.config.inference.seed
    if is_same_order == is_same_seed:
        return None
    return "seed" if is_same_order else "order"


def _identity(result: EvaluationResult) -> tuple[object, ...]:
    settings = result.config.inference.decisive(str)
    del settings["seed"]
    users = result.dataset, result.split, result.num_users
    return result.system, result.weights_hash, settings, *users


def _choices(path: str, variant: str) -> list[str | None]:
    """The chosen item ids, by example id."""
    choices = read_choices(predictions_path(path, variant))
    return [choices[example_id] for example_id in sorted(choices)]
