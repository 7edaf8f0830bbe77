"""Writing the files of an evaluation, which are the same for every system.

``predictions/<variant>.parquet`` has one row per user, ``report/metrics.json`` the figures.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from msrrec import storage
from msrrec.baselines.popularity import count_training_buyers
from msrrec.config import EvaluateConfig, PromptConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.sources import find_followers, tally_ceiling
from msrrec.evaluation.audit import ExampleAudit, OutputHash, audit_variants
from msrrec.evaluation.results import (
    CalibrationResult,
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
from msrrec.inference.predictions import Prediction, PredictionsWriter, open_predictions
from msrrec.metrics import ranking
from msrrec.metrics.coverage import Coverage, CoverageTally
from msrrec.metrics.ranking import LenientTally, RankTally
from msrrec.metrics.reasoning import ReasoningTally
from msrrec.metrics.statistics import Share, mcnemar
from msrrec.reasoning.prompts import DEFAULT_FORM
from msrrec.reasoning.reading import read_lenient, read_rung
from msrrec.retrieval.folder import read_version
from msrrec.schema import Example
from msrrec.stage import FAITHFULNESS, SCORE, Summary
from msrrec.titles import Rung, show_titles

NETWORK = "network"
"""Folder of a baseline's trained network, in its evaluation's folder."""
_NAMES = ("predictions", "report", NETWORK, SCORE.place, FAITHFULNESS.place, storage.RECORD)
"""Names in an evaluation's folder."""

SAMPLES = "predictions/samples.parquet"
"""File of samples beyond the first of a side, if there are any; columns as in a variant's file."""
DEAD_LETTERS = "predictions/dead_letters.jsonl"
"""File of refused samples with reasons, if there are any."""


@dataclass(frozen=True)
class EvaluatedPart:
    """What a system gave for some examples.

    Attributes:
        examples: Examples as the system saw them.
        predictions: One per example and variant, in the order of the examples.
        refused: Every sample that was refused.
        samples: Predictions beyond the first of a side.
        lenient: 0-based candidates of variants whose lenient reading needs more than the text of
            their predictions, one per example.
    """

    examples: Sequence[Example]
    predictions: Mapping[str, Sequence[Prediction]]
    refused: Sequence[Refused] = ()
    samples: Sequence[Prediction] = ()
    lenient: Mapping[str, Sequence[int | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The results of one run over a split, before they are written.

    Attributes:
        system: The evaluated system.
        parts: The results in partitions, which are read once; at least one example.
        details: Returns the parts that only some kinds of systems have, once ``parts`` is read.
        form: How the system was prompted, for those that read and write titles.
        is_written: Whether the texts of the predictions are what the system wrote, so that they can
            be read in other ways too.
        checks: Further lines of the audit.
    """

    system: SystemId
    parts: Iterable[EvaluatedPart]
    details: Callable[[], Details] = Details
    form: PromptConfig = DEFAULT_FORM
    is_written: bool = True
    checks: Sequence[Check] = ()


def write_evaluation(
    evaluation: Evaluation, dataset: Dataset, out: str, config: RunConfig
) -> Summary:
    """Write all files at once or none, and return the summary.

    Partitions are measured and written one by one, so memory does not grow with their number
    beyond the few bytes a user that intervals and paired tests need.
    """
    tally = EvaluationTally(evaluation, dataset, config)
    with storage.atomic_folder(out, _NAMES) as folder:
        with PartWriter(folder) as writer:
            for part in evaluation.parts:
                tally.add(part)
                writer.write(part)
        result = tally.result()
        result.save(folder)
    return _summary(result, out)


class EvaluationTally:
    """All figures of an evaluation, to which its parts are added one by one."""

    def __init__(self, evaluation: Evaluation, dataset: Dataset, config: RunConfig) -> None:
        self._evaluation, self._dataset, self._config = evaluation, dataset, config
        self._buyers = count_training_buyers(dataset)
        self._variants: dict[str, VariantTally] = {}
        self._lengths = Counter[int]()
        is_retrieved = config.evaluate.negatives == "retrieved"
        self._audit = ExampleAudit(dataset, is_retrieved=is_retrieved)
        count = config.evaluate.retrieved_count
        is_ordered = not config.evaluate.permutation
        self._coverage = (
            CoverageTally(self._buyers, count, is_ordered=is_ordered) if is_retrieved else None
        )
        self._reachable = Counter[int]()
        self._world = tally_ceiling(dataset.manifest) if _has_ceiling(config) else None

    def add(self, part: EvaluatedPart) -> None:
        """Measure a part."""
        reachable = [e for e in part.examples if e.target_slot >= 0]
        self._lengths.update(len(e.candidates) for e in part.examples)
        self._reachable.update(len(e.candidates) for e in reachable)
        self._audit.add(part.examples)
        if self._coverage:
            self._coverage.add(part.examples)
        if self._world:
            self._world.add(part.examples)
        for variant, predictions in part.predictions.items():
            if variant not in self._variants:
                self._variants[variant] = VariantTally(
                    self._evaluation, self._dataset, self._buyers
                )
            self._variants[variant].add(part.examples, predictions, part.lenient.get(variant))

    def result(self) -> EvaluationResult:
        """The figures of all parts."""
        variants = {name: tally.result() for name, tally in self._variants.items()}
        share = self._reachable.total() / self._lengths.total()
        chance = ranking.chance_by_length(self._reachable) * share
        return EvaluationResult(
            **dict(self._evaluation.details()),
            system=self._evaluation.system,
            dataset=_describe(self._dataset, self._config),
            split=self._config.evaluate.split,
            num_users=self._lengths.total(),
            num_candidates=dict(sorted(self._lengths.items())),
            chance=chance,
            variants=variants,
            audit=tuple(self._checks(chance, variants)),
            paired=_paired(variants),
            config=EvaluationConfig(
                inference=self._config.inference,
                evaluate=self._config.evaluate,
                baselines=self._config.baselines,
            ),
            ceiling=self._world.result() if self._world else None,
            coverage=self._coverage.result() if self._coverage else None,
        )

    def _checks(self, chance: float, variants: Mapping[str, VariantResult]) -> list[Check]:
        checks = [*self._audit.result(), *self._evaluation.checks]
        if self._evaluation.system.kind != "baseline":
            # A route that never or always thinks gives the outputs of another variant.
            hashes = {n: found.outputs_hash for n, found in variants.items() if n != "routed"}
            is_ranked = self._coverage is not None
            checks += audit_variants(chance, variants, hashes, is_ranked=is_ranked)
        return checks


class VariantTally:
    """The figures of one variant, to which users are added in partitions."""

    def __init__(self, evaluation: Evaluation, dataset: Dataset, buyers: Mapping[str, int]) -> None:
        self._dataset, self._max_chars = dataset, evaluation.form.max_title_chars
        self._ranks = RankTally(buyers, with_scores=True)
        self._reasoning = ReasoningTally(dataset.items, find_followers(dataset.manifest))
        self._hash = OutputHash()
        self._lenient, self._rungs = LenientTally(), Counter[Rung]()
        self._reads_texts = evaluation.is_written

    def add(
        self,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        lenient: Sequence[int | None] | None,
    ) -> None:
        """Add users; ``lenient`` as of ``EvaluatedPart``."""
        choices = [p.item_id(e.candidates) for e, p in zip(examples, predictions, strict=True)]
        scores = [p.candidate_scores or p.output.candidate_logprobs for p in predictions]
        self._ranks.add(examples, choices, scores)
        self._reasoning.add(examples, [p.output for p in predictions])
        self._hash.add(examples, predictions)
        # A system that scores has no text to read.
        self._reads_texts &= all(p.candidate_scores is None for p in predictions)
        if self._reads_texts:
            self._read_texts(examples, predictions, lenient)

    def _read_texts(
        self,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        lenient: Sequence[int | None] | None,
    ) -> None:
        """What the texts say by other readings."""
        pairs = [
            (p.output.text, show_titles(self._dataset.titles(e.candidates), self._max_chars))
            for e, p in zip(examples, predictions, strict=True)
        ]
        if lenient is None:
            lenient = [read_lenient(text, titles) for text, titles in pairs]
        choices = [
            None if index is None else e.candidates[index]
            for e, index in zip(examples, lenient, strict=True)
        ]
        self._lenient.add(examples, choices)
        self._rungs.update(read_rung(text, titles) for text, titles in pairs)

    def result(self) -> VariantResult:
        """The figures of all users that were added."""
        return VariantResult(
            **vars(self._ranks.result()),
            reasoning=self._reasoning.result(),
            outputs_hash=self._hash.result(),
            lenient=self._lenient.result() if self._reads_texts else None,
            rungs=dict(sorted(self._rungs.items())) if self._reads_texts else {},
        )


class PartWriter:
    """The files of predictions, samples and refused examples, written part by part."""

    def __init__(self, folder: str) -> None:
        self._folder, self._files = folder, ExitStack()
        self._predictions: dict[str, PredictionsWriter] = {}
        self._refused: Any = None

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *raised: Any) -> None:
        self._files.__exit__(*raised)

    def write(self, part: EvaluatedPart) -> None:
        """Add the rows of a part; a file is begun with its first row."""
        candidates = {e.example_id: e.candidates for e in part.examples}
        for variant, predictions in part.predictions.items():
            self._write(f"predictions/{variant}.parquet", predictions, candidates)
        if part.samples:
            self._write(SAMPLES, part.samples, candidates)
        if part.refused:
            self._refused = self._refused or self._files.enter_context(
                storage.open_output(storage.join(self._folder, DEAD_LETTERS))
            )
            rows = (json.dumps(row.model_dump(), ensure_ascii=False) for row in part.refused)
            self._refused.write("".join(row + "\n" for row in rows).encode())

    def _write(
        self,
        name: str,
        predictions: Sequence[Prediction],
        candidates: Mapping[str, Sequence[str]],
    ) -> None:
        if name not in self._predictions:
            path = storage.join(self._folder, name)
            self._predictions[name] = self._files.enter_context(open_predictions(path))
        self._predictions[name](predictions, candidates)


def _has_ceiling(config: RunConfig) -> bool:
    """Whether a generated world's ceiling is known, which is so for uniform negatives."""
    return config.evaluate.negatives in ("frozen", "uniform")


def _paired(variants: Mapping[str, VariantResult]) -> tuple[VariantPair, ...]:
    """Paired tests of fusion against each other variant, and of the route against each."""
    return tuple(
        VariantPair(**vars(mcnemar(variants[first].hits, found.hits)), first=first, second=name)
        for first in ("fused", "routed")
        if first in variants
        for name, found in variants.items()
        if name != first and (first, name) != ("routed", "fused")
    )


def _describe(dataset: Dataset, config: RunConfig) -> DatasetId:
    return DatasetId(
        path=storage.shown(storage.absolute(dataset.path)),
        domain=dataset.domain,
        fingerprint=dataset.fingerprint,
        negatives=_name_negatives(config.evaluate),
        num_negatives=config.evaluate.num_negatives,
    )


def _name_negatives(settings: EvaluateConfig) -> str:
    """What tells one way to find negatives from another: of retrieved ones, by which index."""
    if settings.negatives != "retrieved" or settings.index is None:
        return settings.negatives
    return f"{settings.retrieved_count} retrieved by {read_version(settings.index)}"


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
        **_calibration(result.calibration),
        **_covered(result.coverage),
        "warnings": [check.text for check in result.audit if not check.ok],
    }


def _covered(found: Coverage | None) -> Summary:
    """Coverage by number of candidates, where they were retrieved."""
    if found is None:
        return {}
    return {"coverage": {str(k): round(share.value, 4) for k, share in found.at.items()}}


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


def _calibration(found: Mapping[str, CalibrationResult]) -> Summary:
    """The errors of the confidences, and the temperatures that later runs take."""
    if not found:
        return {}
    shown = {
        variant: {
            "error": round(one.error, 4),
            "temperature": one.temperature and round(one.temperature, 4),
            "tempered_error": one.tempered_error and round(one.tempered_error, 4),
        }
        for variant, one in found.items()
    }
    return {"calibration": shown}


def _rounded(share: Share) -> dict[str, float]:
    return {key: round(value, 4) for key, value in vars(share).items()}
