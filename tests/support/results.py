"""Results that tests need and do not compute."""

from collections.abc import Mapping, Sequence
from typing import Any

from msrrec.config import BaselinesConfig, EvaluateConfig, InferenceConfig, PromptConfig
from msrrec.data.partitions import Partitions
from msrrec.evaluation.results import (
    DatasetId,
    EvaluationConfig,
    EvaluationResult,
    ModelFacts,
    VariantResult,
)
from msrrec.evaluation.systems import SystemId, SystemKind
from msrrec.inference.predictions import Prediction, iter_predictions
from msrrec.metrics.ranking import RankMetrics, rank_metrics
from msrrec.metrics.statistics import Share
from msrrec.report.results import SystemRow
from msrrec.schema import Example


def read_all(path: str, examples: Sequence[Example]) -> list[Prediction]:
    """The predictions of a whole file, for examples that are in memory."""
    return [p for part in iter_predictions(path, Partitions.split(examples)) for p in part]


def share(value: float) -> Share:
    """A share with an interval of one hundredth to either side."""
    return Share(value, value - 0.01, value + 0.01)


def system_id(
    label: str, kind: SystemKind, paper_row: str | None = None, name: str | None = None
) -> SystemId:
    """A system whose id is its label where no name is given."""
    return SystemId(id=name or label, kind=kind, label=label, paper_row=paper_row)


def variant_result(metrics: RankMetrics | None = None, outputs_hash: str = "h") -> VariantResult:
    """One variant with some metrics, or with those of four users of whom two were hit."""
    found = metrics or rank_metrics(
        [Example(str(n), str(n), ("h",), "a", ("a", "b")) for n in range(4)], ["a", "a", "b", None]
    )
    return VariantResult(**vars(found), reasoning=None, outputs_hash=outputs_hash)


def evaluation_result(
    system: SystemId,
    variants: Mapping[str, VariantResult],
    *,
    dataset: str = "f00",
    split: str = "test",
    num_users: int = 4,
    weights: str | None = None,
    **settings: Mapping[str, Any],
) -> EvaluationResult:
    """An evaluation with these variants; ``settings`` are sections of its config."""
    evaluate = EvaluateConfig.model_validate({"split": split, **settings.get("evaluate", {})})
    model = ModelFacts(
        model_dir="m",
        weights="w",
        adapter=None,
        revision=None,
        weights_hash=weights,
        form=PromptConfig(answer_format="title"),
    )
    return EvaluationResult(
        system=system,
        dataset=DatasetId(
            path="d", domain="Home", fingerprint=dataset, negatives="frozen", num_negatives=None
        ),
        split=evaluate.split,
        num_users=num_users,
        num_candidates={2: num_users},
        chance=0.5,
        variants=dict(variants),
        audit=(),
        paired=(),
        config=EvaluationConfig(
            inference=InferenceConfig.model_validate(settings.get("inference", {})),
            evaluate=evaluate,
            baselines=BaselinesConfig(),
        ),
        model=model,
    )


def system_row(
    system: SystemId,
    variant: str,
    hit: float,
    *,
    users: str = "a",
    seed: int = 0,
    is_trained: bool | None = None,
    **scores: Share,
) -> SystemRow:
    """A row of a table; a trained system's weights are trained, and others' where that is said."""
    return SystemRow(
        system=system,
        variant=variant,
        label=system.label if variant == system.id else f"{system.label} · {variant}",
        domain=f"Shop {users}",
        users=users,
        seed=seed,
        is_trained=system.kind == "trained" if is_trained is None else is_trained,
        num_users=100,
        chance=0.2,
        hit_ratio=share(hit),
        valid_ratio=share(1.0),
        hit_ratio_valid=None,
        **scores,
    )
