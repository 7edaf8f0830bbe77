"""Writing the files of an evaluation, which are the same for every system.

``predictions/<variant>.parquet`` has one row per user, ``report/metrics.json`` the figures.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

from msrrec import storage
from msrrec.baselines.popularity import count_buyers
from msrrec.baselines.purchases import training_purchases
from msrrec.config import PromptConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.sources import find_ceiling
from msrrec.embedded.ceiling import Ceiling
from msrrec.evaluation.audit import audit_examples, audit_variants, hash_predictions
from msrrec.evaluation.results import (
    Check,
    DatasetId,
    Details,
    EvaluationConfig,
    EvaluationResult,
    Refused,
    RoutingResult,
    VariantPair,
    VariantResult,
)
from msrrec.evaluation.systems import SystemId
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.metrics import ranking
from msrrec.metrics.ranking import LenientMetrics
from msrrec.metrics.reasoning import reasoning_metrics
from msrrec.metrics.statistics import Share, mcnemar
from msrrec.reasoning.prompts import DEFAULT_FORM
from msrrec.reasoning.reading import read_lenient, read_rung
from msrrec.schema import Example
from msrrec.stage import FAITHFULNESS, SCORE, Summary
from msrrec.titles import Rung, show_titles

_NAMES = ("predictions", "report", SCORE.place, FAITHFULNESS.place, storage.RECORD)
"""Names in an evaluation's folder."""

SAMPLES = "predictions/samples.parquet"
"""File of samples beyond the first of a side, if there are any; columns as in a variant's file."""
DEAD_LETTERS = "predictions/dead_letters.jsonl"
"""File of refused samples with reasons, if there are any."""


@dataclass(frozen=True)
class Evaluation:
    """The results of one run over a split, before they are written.

    Attributes:
        system: The evaluated system.
        examples: Examples as the system saw them.
        predictions: One per example and variant, in the order of the examples.
        refused: Every sample that was refused.
        samples: Predictions beyond the first of a side.
        details: Parts that only some kinds of systems have.
        lenient: 0-based candidates of variants whose lenient reading needs more than the text of
            their predictions, one per example.
        form: How the system was prompted, for those that read and write titles.
        is_written: Whether the texts of the predictions are what the system wrote, so that they can
            be read in other ways too.
        checks: Further lines of the audit.
    """

    system: SystemId
    examples: Sequence[Example]
    predictions: Mapping[str, Sequence[Prediction]]
    refused: Sequence[Refused] = ()
    samples: Sequence[Prediction] = ()
    details: Details = field(default_factory=Details)
    lenient: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    form: PromptConfig = DEFAULT_FORM
    is_written: bool = True
    checks: Sequence[Check] = ()


def write_evaluation(
    evaluation: Evaluation, dataset: Dataset, out: str, config: RunConfig
) -> Summary:
    """Write all files at once or none, and return the summary."""
    result = summarize(evaluation, dataset, config)
    candidates = {e.example_id: e.candidates for e in evaluation.examples}
    with storage.atomic_folder(out, _NAMES) as folder:
        for variant, predictions in evaluation.predictions.items():
            path = storage.join(folder, "predictions", f"{variant}.parquet")
            write_predictions(path, predictions, candidates)
        if evaluation.samples:
            write_predictions(storage.join(folder, SAMPLES), evaluation.samples, candidates)
        if evaluation.refused:
            rows = (json.dumps(row.model_dump(), ensure_ascii=False) for row in evaluation.refused)
            content = "".join(row + "\n" for row in rows).encode()
            storage.write_bytes(storage.join(folder, DEAD_LETTERS), content)
        result.save(folder)
    return _summary(result, out)


def summarize(evaluation: Evaluation, dataset: Dataset, config: RunConfig) -> EvaluationResult:
    """All figures of an evaluation."""
    examples = evaluation.examples
    variants = _variants(evaluation, dataset)
    chance = ranking.chance(examples)
    return EvaluationResult(
        **dict(evaluation.details),
        system=evaluation.system,
        dataset=_describe(dataset, config),
        split=config.evaluate.split,
        num_users=len(examples),
        num_candidates=dict(sorted(Counter(len(e.candidates) for e in examples).items())),
        chance=chance,
        variants=variants,
        audit=tuple(_audit(evaluation, dataset, chance, variants)),
        paired=_paired(variants),
        config=EvaluationConfig(
            inference=config.inference, evaluate=config.evaluate, baselines=config.baselines
        ),
        ceiling=_ceiling(dataset, examples, config),
    )


def _ceiling(dataset: Dataset, examples: Sequence[Example], config: RunConfig) -> Ceiling | None:
    """The ceiling of a generated world, which is known for uniform negatives."""
    is_uniform = config.evaluate.negatives in ("frozen", "uniform")
    return find_ceiling(dataset.manifest, examples) if is_uniform else None


def _audit(
    evaluation: Evaluation, dataset: Dataset, chance: float, variants: Mapping[str, VariantResult]
) -> list[Check]:
    checks = [*audit_examples(dataset, evaluation.examples), *evaluation.checks]
    if evaluation.system.kind != "baseline":
        # A route that never or always thinks gives the outputs of another variant.
        hashes = {n: found.outputs_hash for n, found in variants.items() if n != "routed"}
        checks += audit_variants(chance, variants, hashes)
    return checks


def _paired(variants: Mapping[str, VariantResult]) -> tuple[VariantPair, ...]:
    """Paired tests of fusion against each other variant, and of the route against each."""
    return tuple(
        VariantPair(**vars(mcnemar(variants[first].hits, found.hits)), first=first, second=name)
        for first in ("fused", "routed")
        if first in variants
        for name, found in variants.items()
        if name != first and (first, name) != ("routed", "fused")
    )


def _variants(evaluation: Evaluation, dataset: Dataset) -> dict[str, VariantResult]:
    buyers = count_buyers(training_purchases(dataset))
    return {
        variant: replace(
            _variant(evaluation.examples, predictions, dataset, buyers),
            **_read_texts(evaluation, variant, dataset),
        )
        for variant, predictions in evaluation.predictions.items()
    }


class _TextFigures(TypedDict, total=False):
    lenient: LenientMetrics
    rungs: Mapping[Rung, int]


def _read_texts(evaluation: Evaluation, variant: str, dataset: Dataset) -> _TextFigures:
    """What the texts of a variant say by other readings; nothing where choices are scored."""
    examples, predictions = evaluation.examples, evaluation.predictions[variant]
    is_scored = any(prediction.candidate_scores is not None for prediction in predictions)
    if is_scored or not evaluation.is_written:
        return {}
    max_chars = evaluation.form.max_title_chars
    pairs = [
        (p.output.text, show_titles(dataset.titles(e.candidates), max_chars))
        for e, p in zip(examples, predictions, strict=True)
    ]
    found = evaluation.lenient.get(variant)
    if found is None:
        found = [read_lenient(text, titles) for text, titles in pairs]
    choices = [
        None if index is None else e.candidates[index]
        for e, index in zip(examples, found, strict=True)
    ]
    rungs = Counter(read_rung(text, titles) for text, titles in pairs)
    return {
        "lenient": ranking.lenient_metrics(examples, choices),
        "rungs": dict(sorted(rungs.items())),
    }


def _variant(
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    dataset: Dataset,
    buyers: Mapping[str, int],
) -> VariantResult:
    choices = [p.item_id(e.candidates) for e, p in zip(examples, predictions, strict=True)]
    scores = [p.candidate_scores or p.output.candidate_logprobs for p in predictions]
    outputs = [p.output for p in predictions]
    return VariantResult(
        **vars(ranking.rank_metrics(examples, choices, buyers, scores)),
        reasoning=reasoning_metrics(dataset.items, examples, outputs),
        outputs_hash=hash_predictions(examples, predictions),
    )


def _describe(dataset: Dataset, config: RunConfig) -> DatasetId:
    return DatasetId(
        path=storage.shown(storage.absolute(dataset.path)),
        domain=dataset.domain,
        fingerprint=dataset.fingerprint,
        negatives=config.evaluate.negatives,
        num_negatives=config.evaluate.num_negatives,
    )


def _summary(result: EvaluationResult, out: str) -> Summary:
    """The figures of the one line that the command prints."""
    return {
        "out": out,
        "system": result.system.label,
        "num_users": result.num_users,
        "chance": round(result.chance, 4),
        "variants": {
            name: {
                "hit_ratio": _rounded(found.hit_ratio),
                "valid_ratio": _rounded(found.valid_ratio),
            }
            for name, found in result.variants.items()
        },
        **_route(result.routing),
        "warnings": [check.text for check in result.audit if not check.ok],
    }


def _route(found: RoutingResult | None) -> Summary:
    """The route, whose threshold later runs take."""
    if found is None:
        return {}
    return {
        "route": {
            "threshold": found.threshold,
            "is_chosen_here": found.is_chosen_here,
            "thinking": round(found.thinking.value, 4),
            "hit_ratio": round(found.routed.hit_ratio.value, 4),
            "tokens_per_user": round(found.routed.tokens_per_user, 1),
        }
    }


def _rounded(share: Share) -> dict[str, float]:
    return {key: round(value, 4) for key, value in vars(share).items()}
