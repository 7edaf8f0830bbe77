"""Evaluation of a trained model, a base model or a baseline on the frozen examples of a split.

Every system ends in the same files: ``predictions/<variant>.parquet`` with one row a user, and
``report/metrics.json`` with all that the report shows.
"""

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.baselines import BASELINES, build_baseline
from msrrec.baselines.interface import Answer, Writer, choose
from msrrec.baselines.popularity import count_buyers
from msrrec.baselines.purchases import training_purchases
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.negatives import draw_candidates
from msrrec.errors import ConfigError, DataError
from msrrec.evaluation.agreement import fusion_table
from msrrec.evaluation.audit import audit_examples, audit_variants, hash_rows
from msrrec.evaluation.cases import pick_cases
from msrrec.evaluation.consistency import permute
from msrrec.evaluation.fusion_study import fusion_study, load_gate
from msrrec.fingerprint import hash_weights
from msrrec.inference.batch import BuildRecommender, Prediction, open_journal, predict
from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.recommender import Mode, Recommender, sides_of
from msrrec.metrics import ranking
from msrrec.metrics.reasoning import reasoning_metrics
from msrrec.metrics.statistics import mcnemar
from msrrec.models import ModelSource, locate_model
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

logger = logging.getLogger(__name__)

METRICS = "report/metrics.json"
SWEEP = "sweep.json"
"""What ``msrrec sweep`` found, with its points' evaluations below."""
KIND = "msrrec-evaluation"
NO_SIDE = "none"
"""The ``side`` of a fused row where neither side was valid."""

SAMPLES = "predictions/samples.parquet"
"""Samples beyond the first of a side, columns as in a variant's file; where there are any."""
DEAD_LETTERS = "predictions/dead_letters.jsonl"
"""The samples that were refused, and why; where there are any."""

_MAX_ERRORS = 20
_DECIDES_EXAMPLES = {"split", "permutation", "negatives", "num_negatives"}

_NOBODY = SideOutput(NO_SIDE, "", "", None, None, 0)

Summary = dict[str, Any]
Outputs = dict[Side, SideOutput]


@dataclass(frozen=True)
class Evaluation:
    """What one run over a split found, before it is written.

    Attributes:
        system: What tables call it.
        kind: ``baseline``, ``api``, ``base`` or ``trained``.
        rows: Rows of ``schema.PREDICTIONS`` a variant, in the order of the examples.
        refused: ``example_id``, ``side`` and ``error`` of every sample that was refused.
        samples: Rows of ``schema.PREDICTIONS`` of samples beyond the first of a side.
    """

    system: str
    kind: str
    examples: list[Example]
    rows: Mapping[Any, list[dict[str, Any]]]
    refused: Sequence[dict[str, Any]] = ()
    samples: Sequence[dict[str, Any]] = ()


def evaluate(
    dataset: Dataset,
    model_dir: str,
    out: str,
    config: RunConfig,
    variants: Sequence[Mode],
    *,
    name: str | None = None,
    build: BuildRecommender = Recommender.from_source,
) -> Summary:
    """Generate the sides that the variants need, in one engine start, and score each variant.

    Returns the summary; ``metrics.json`` has the rest. ``name`` is what tables call the system;
    ``build`` makes each actor's recommender. Outputs are kept in ``<out>.journal`` until the end,
    so a killed run goes on where it ended.

    Raises:
        ModelError: If the folder holds no model.
        DataError: If the split has no examples.
        EngineError: If generation fails; nothing is written then.
    """
    parts = [side for variant in variants for side in (*sides_of(variant), variant)]
    variants = tuple(dict.fromkeys(parts))  # fused ones bring their sides, at no further cost
    if not variants:
        raise ConfigError("variants: found none; expected some of fused, user, item, full, direct")
    source = locate_model(model_dir, config.model)
    examples = _examples(dataset, config)
    gate = load_gate(config.evaluate.gate, dataset) if config.evaluate.gate else None
    sides = tuple(dict.fromkeys(side for variant in variants for side in sides_of(variant)))
    model = _describe(source, model_dir)
    journal = open_journal(
        f"{out.rstrip('/')}.journal", _identity(dataset, model, sides, config), config.inference
    )
    begin = time.monotonic()
    predictions = predict(examples, dataset, source, sides, config.inference, build, journal)
    seconds = time.monotonic() - begin
    outputs = _by_example([p for p in predictions if p.sample == 0], len(sides))
    decisions = {v: [Recommender.decide(v, both) for both in outputs] for v in variants}
    seeds = {(p.example_id, p.output.side): p.seed for p in predictions if p.sample == 0}
    rows = {v: _rows(v, examples, outputs, decisions[v], seeds) for v in variants}
    kind = "base" if source.domain is None else "trained"
    refused = _refused(predictions)
    samples = _sample_rows(examples, predictions)
    evaluation = Evaluation(name or source.name, kind, examples, rows, refused, samples)
    extra: dict[str, Any] = {
        "model": model,
        "errors": {"num_refused": len(refused), "first": refused[:_MAX_ERRORS]},
        "speed": _speed(predictions, seconds),
        "sides": {side: _side_metrics([o[side] for o in outputs]) for side in sides},
        "cases": pick_cases(dataset, examples, outputs, decisions),
    }
    if "fused" in variants:
        extra["fusion"] = fusion_table(examples, outputs, decisions["fused"])
        voters = _with_samples(outputs, predictions)
        extra["fusion"]["study"] = fusion_study(examples, voters, gate)
        extra["fusion"]["gate"] = asdict(gate) if gate else None
    summary = write_evaluation(evaluation, dataset, out, config, extra)
    journal.delete()
    return summary


def evaluate_system(
    dataset: Dataset,
    system: str,
    out: str,
    config: RunConfig,
    variants: Sequence[Mode],
    *,
    name: str | None = None,
) -> Summary:
    """Evaluate a baseline by its name, which has no variants, or else a model by its folder."""
    if system in BASELINES:
        return evaluate_baseline(dataset, system, out, config)
    return evaluate(dataset, system, out, config, variants, name=name)


def evaluate_baseline(dataset: Dataset, name: str, out: str, config: RunConfig) -> Summary:
    """Let a baseline score or answer the same examples, into the same files.

    Raises:
        ConfigError: If there is no baseline of that name.
        DataError: If the split has no examples.
    """
    examples = _examples(dataset, config)
    seed = config.inference.seed
    baseline = build_baseline(name, config)
    begin = time.monotonic()
    facts = baseline.fit(dataset, fit_folder(out))
    if isinstance(baseline, Writer):
        found = _answered(examples, baseline.write(examples))
    else:
        found = _scored(dataset, examples, baseline.score(examples), seed)
    seconds = round(time.monotonic() - begin, 2)
    shared = {"side": name, "reasoning": "", "seed": seed}
    rows = [
        {"example_id": example.example_id, **shared, **row}
        for example, row in zip(examples, found, strict=True)
    ]
    evaluation = Evaluation(name, BASELINES[name].kind, examples, {name: rows})
    summary = write_evaluation(
        evaluation, dataset, out, config, {"fit": {**facts, "wall_s": seconds}}
    )
    storage.delete_folder(fit_folder(out))
    return summary


def _scored(
    dataset: Dataset, examples: Sequence[Example], scores: Sequence[Sequence[float]], seed: int
) -> list[dict[str, Any]]:
    """The best candidate of each example."""
    return [
        {
            "text": dataset.items[choice].title,
            schema.ITEM_ID: choice,
            "num_tokens": 0,
            "candidate_scores": found,
        }
        for choice, found in zip(choose(examples, scores, seed), scores, strict=True)
    ]


def _answered(examples: Sequence[Example], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The candidate that each answer names."""
    return [
        {
            "text": answer.text,
            schema.ITEM_ID: None if answer.index is None else example.candidates[answer.index],
            "num_tokens": answer.num_tokens,
        }
        for example, answer in zip(examples, answers, strict=True)
    ]


def fit_folder(out: str) -> str:
    """Where a baseline keeps its work, beside the evaluation, whose folder is replaced whole."""
    return f"{out.rstrip('/')}.fit"


def _examples(dataset: Dataset, config: RunConfig) -> list[Example]:
    settings = config.evaluate
    if settings.negatives == "frozen":
        examples = dataset.examples(settings.split, settings.num_users)
    else:
        drawn = draw_candidates(dataset, settings.split, settings.negatives, settings.num_negatives)
        examples = drawn[: settings.num_users or None]
    if not examples:
        raise DataError(
            f"{dataset.path}: the {settings.split} split has no examples; expected at least one"
        )
    return permute(examples, settings.permutation)


def _by_example(predictions: Sequence[Prediction], num_sides: int) -> list[Outputs]:
    """The sides of each example, from predictions in which they stand together."""
    outputs = [prediction.output for prediction in predictions]
    return [
        {output.side: output for output in outputs[n : n + num_sides]}  # type: ignore[misc]
        for n in range(0, len(outputs), num_sides)
    ]


def _with_samples(
    outputs: Sequence[Outputs], predictions: Sequence[Prediction]
) -> list[dict[Any, SideOutput]]:
    """The sides of each example, and further samples under names of their own, which can vote."""
    further: dict[str, dict[str, SideOutput]] = defaultdict(dict)
    for p in predictions:
        if p.sample:
            further[p.example_id][f"{p.output.side}#{p.sample}"] = p.output
    ids = dict.fromkeys(p.example_id for p in predictions)
    return [{**both, **further[key]} for both, key in zip(outputs, ids, strict=True)]


def _sample_rows(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> list[dict[str, Any]]:
    """The samples beyond the first of a side."""
    candidates = {example.example_id: example.candidates for example in examples}
    return [
        _row(p.example_id, candidates[p.example_id], p.output.index, p.output, p.seed)
        for p in predictions
        if p.sample
    ]


def _row(
    example_id: str, candidates: Sequence[str], index: int | None, told: SideOutput, seed: int
) -> dict[str, Any]:
    """A row of ``schema.PREDICTIONS``."""
    return {
        "example_id": example_id,
        schema.ITEM_ID: None if index is None else candidates[index],
        "seed": seed,
        **{name: value for name, value in vars(told).items() if name != "index"},
    }


def _rows(
    variant: Mode,
    examples: Sequence[Example],
    outputs: Sequence[Outputs],
    decisions: Sequence[Recommendation],
    seeds: Mapping[tuple[str, str], int],
) -> list[dict[str, Any]]:
    """One prediction a user: the chosen side's, or that there is none."""
    rows = []
    for example, both, decision in zip(examples, outputs, decisions, strict=True):
        told = decision.chosen or (both[variant] if variant != "fused" else _NOBODY)
        seed = seeds.get((example.example_id, told.side), 0)
        rows.append(_row(example.example_id, example.candidates, decision.index, told, seed))
    return rows


def _describe(source: ModelSource, model_dir: str) -> dict[str, Any]:
    return {
        "model_dir": model_dir,
        "weights": source.path,
        "adapter": source.adapter,
        "revision": source.revision,
        "weights_hash": hash_weights(source),
        "answer_format": source.answer_format,
    }


def _identity(
    dataset: Dataset, model: Mapping[str, Any], sides: Sequence[Side], config: RunConfig
) -> dict[str, Any]:
    """What decides the outputs beside the settings of inference; more users leave it as it is."""
    evaluate = config.evaluate.model_dump(mode="json", include=_DECIDES_EXAMPLES)
    return {
        "dataset_fingerprint": dataset.fingerprint,
        "model": dict(model),
        "sides": list(sides),
        "evaluate": evaluate,
    }


def _refused(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The samples that were refused, and why."""
    refused = [
        {"example_id": p.example_id, "side": p.output.side, "error": p.error}
        for p in predictions
        if p.error is not None
    ]
    if refused:
        logger.warning(
            "%d of %d samples were refused and count as misses, see %s; the first: %s",
            len(refused),
            len(predictions),
            DEAD_LETTERS,
            refused[0]["error"],
        )
    return refused


def _speed(predictions: Sequence[Prediction], seconds: float) -> dict[str, float]:
    """Of this run; what an earlier one had finished is counted apart."""
    tokens = sum(p.output.num_tokens for p in predictions if not p.is_resumed)
    return {
        "num_resumed": sum(p.is_resumed for p in predictions),
        "wall_s": round(seconds, 2),
        "num_tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else 0.0,
    }


def _side_metrics(outputs: Sequence[SideOutput]) -> dict[str, Any]:
    """Length and perplexity of what a side wrote."""
    perplexities = sorted(o.perplexity for o in outputs if o.perplexity is not None)
    return {
        "num_outputs": len(outputs),
        "mean_tokens": sum(o.num_tokens for o in outputs) / len(outputs),
        "median_perplexity": perplexities[len(perplexities) // 2] if perplexities else None,
    }


def _paired(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Fusion against each other variant; nothing where it is not among them."""
    hits = {v: _hits(evaluation.examples, rows) for v, rows in evaluation.rows.items()}
    if "fused" not in hits:
        return []
    return [
        {"first": "fused", "second": other, **asdict(mcnemar(hits["fused"], hits[other]))}
        for other in hits
        if other != "fused"
    ]


def _hits(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    return ranking.hits(examples, _choices(rows))


def _choices(rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    return [row[schema.ITEM_ID] for row in rows]


def write_evaluation(
    evaluation: Evaluation, dataset: Dataset, out: str, config: RunConfig, extra: dict[str, Any]
) -> Summary:
    """All files at once, or none."""
    examples = evaluation.examples
    variants = _variants(evaluation, dataset)
    chance = ranking.chance(examples)
    checks = audit_examples(dataset, examples)
    if evaluation.kind != "baseline":
        checks += audit_variants(chance, variants, evaluation.rows)
    metrics = {
        "kind": KIND,
        "system": evaluation.system,
        "system_kind": evaluation.kind,
        "dataset": _where(dataset, config),
        "split": config.evaluate.split,
        "num_users": len(examples),
        "num_candidates": dict(sorted(Counter(len(e.candidates) for e in examples).items())),
        "chance": chance,
        "variants": variants,
        "audit": checks,
        "paired": _paired(evaluation),
        **extra,
        "config": config.model_dump(mode="json", include={"inference", "evaluate", "baselines"}),
    }
    with storage.atomic_folder(out) as folder:
        for variant, rows in evaluation.rows.items():
            table = pa.Table.from_pylist(rows, schema=schema.PREDICTIONS)
            storage.write_table(storage.join(folder, "predictions", f"{variant}.parquet"), table)
        if evaluation.samples:
            table = pa.Table.from_pylist(evaluation.samples, schema=schema.PREDICTIONS)
            storage.write_table(storage.join(folder, SAMPLES), table)
        if evaluation.refused:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in evaluation.refused)
            storage.write_bytes(storage.join(folder, DEAD_LETTERS), "".join(lines).encode())
        storage.write_json(storage.join(folder, METRICS), metrics)
    return _summary(metrics, out)


def _variants(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """The metrics of every variant."""
    buyers = count_buyers(training_purchases(dataset))
    found = {}
    for variant, rows in evaluation.rows.items():
        scores = [row.get("candidate_scores", row.get("candidate_logprobs")) for row in rows]
        metrics = ranking.rank_metrics(evaluation.examples, _choices(rows), buyers, scores)
        found[variant] = metrics | {
            "reasoning": reasoning_metrics(dataset.items, evaluation.examples, rows),
            "outputs_hash": hash_rows(rows),
        }
    return found


def _where(dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    """What was evaluated on; two evaluations are comparable where this is the same."""
    return {
        "path": dataset.path if "://" in dataset.path else str(Path(dataset.path).absolute()),
        "domain": dataset.domain,
        "fingerprint": dataset.fingerprint,
        "negatives": config.evaluate.negatives,
        "num_negatives": config.evaluate.num_negatives,
    }


def _summary(metrics: Mapping[str, Any], out: str) -> Summary:
    """The figures of the one line that the command prints."""
    return {
        "out": out,
        "system": metrics["system"],
        "num_users": metrics["num_users"],
        "chance": round(metrics["chance"], 4),
        "variants": {
            name: {key: _rounded(found[key]) for key in ("hit_ratio", "valid_ratio")}
            for name, found in metrics["variants"].items()
        },
        "warnings": [check["text"] for check in metrics["audit"] if not check["ok"]],
    }


def _rounded(share: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in share.items()}
