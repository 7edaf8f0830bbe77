"""Evaluation of a trained model, a base model or a baseline on the frozen examples of a split."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from msrrec import storage
from msrrec.baselines import build_baseline
from msrrec.baselines.interface import Baseline, Facts, Savable, Writer, WrittenChoice, choose
from msrrec.config import EXAMPLE_SETTINGS, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, ModelError
from msrrec.evaluation.examples import partition_examples
from msrrec.evaluation.fusion_study import Learned, learn
from msrrec.evaluation.model_tally import ModelTally, Reading
from msrrec.evaluation.results import (
    Details,
    FitResult,
    ModelFacts,
    RateTrial,
    SequentialFit,
)
from msrrec.evaluation.systems import identify_baseline, identify_model
from msrrec.evaluation.write import NETWORK, EvaluatedPart, Evaluation, write_evaluation
from msrrec.fingerprint import hash_weights, identify_dataset
from msrrec.inference.batch import BuildRecommender, open_journal, predict
from msrrec.inference.fusion import SideOutput
from msrrec.inference.journal import OutputJournal
from msrrec.inference.predictions import Prediction
from msrrec.inference.recommender import MODES, Mode, Recommender, require_threshold, sides_of
from msrrec.models import ModelSource, SupervisedTokens, locate_model, read_arm, read_settings
from msrrec.reasoning.prompts import Side
from msrrec.retrieval.folder import read_version
from msrrec.schema import Example
from msrrec.stage import Summary

_DECIDES_EXAMPLES = {*EXAMPLE_SETTINGS} - {"num_users", "index", "num_retrieved"}
"""What a journal goes by: it may have more users, and it knows the index by its version."""


def evaluate(
    dataset: Dataset,
    model_dir: str,
    out: str,
    config: RunConfig,
    variants: Sequence[Mode],
    *,
    name: str | None = None,
    build: BuildRecommender = Recommender.from_source,
    rate_trials: Sequence[RateTrial] = (),
) -> Summary:
    """Generate the sides that the variants need, in one engine start, and score each variant.

    Returns the summary; ``metrics.json`` has all figures. ``name`` is the system's name in tables;
    ``build`` makes each actor's recommender; ``rate_trials`` are told in the result. Outputs are
    kept in ``<out>.journal`` until the end, so a killed run can be resumed.

    Raises:
        ConfigError: If there are no variants, or one is ``routed`` and no threshold is known.
        ModelError: If the folder holds no model.
        DataError: If the split has no examples.
        EngineError: If generation fails; nothing is written then.
    """
    variants = _with_sides(variants)
    source = locate_model(model_dir, config.model, config.prompt)
    examples = partition_examples(dataset, config.evaluate)
    model, gate = _describe(source, model_dir), config.evaluate.gate
    learned = learn(gate, dataset, model.weights_hash) if gate else Learned()
    threshold = _threshold(variants, config, learned)
    journal = _journal(out, dataset, model, variants, config, threshold)
    route = {"route_threshold": threshold} if _generates_by_route(variants) else {}
    begin = time.monotonic()
    answered = predict(
        examples, dataset, source, _sides(variants), config.inference, journal, build, **route
    )
    seconds = time.monotonic() - begin
    tally = ModelTally(
        Reading(dataset, variants, threshold, source.form, config.evaluate.split, learned)
    )
    constrained = config.inference.constrained
    evaluation = Evaluation(
        identify_model(source, model_dir, name, constrained=constrained, variants=variants),
        tally.read(answered),
        lambda: tally.details(model, seconds).model_copy(
            update={"rate_trials": tuple(rate_trials)}
        ),
        form=source.form,
    )
    summary = write_evaluation(evaluation, dataset, out, config)
    journal.delete()
    return summary


def _with_sides(variants: Sequence[Mode]) -> tuple[Mode, ...]:
    """The variants, plus the sides that fused and routed ones need for every user anyway."""
    parts: list[Mode] = []
    for variant in variants:
        parts += [*(("direct",) if variant == "routed" else sides_of(variant)), variant]
    if not parts:
        known = ", ".join(MODES)
        raise ConfigError(f"variants: found none; expected some of {known}")
    return tuple(dict.fromkeys(parts))


def _threshold(variants: Sequence[Mode], config: RunConfig, learned: Learned) -> float | None:
    """The threshold of the route: the setting, or what validation taught."""
    given = config.inference.route_threshold
    threshold = learned.threshold if given is None else given
    return require_threshold(threshold) if "routed" in variants else threshold


def _generates_by_route(variants: Sequence[Mode]) -> bool:
    """Whether chains are needed of the users alone that think."""
    return "routed" in variants and set(variants) <= {"routed", "direct"}


def _sides(variants: Sequence[Mode]) -> tuple[Side, ...]:
    return tuple(dict.fromkeys(side for variant in variants for side in sides_of(variant)))


def _journal(
    out: str,
    dataset: Dataset,
    model: ModelFacts,
    variants: Sequence[Mode],
    config: RunConfig,
    threshold: float | None,
) -> OutputJournal:
    """The journal of outputs, which is also valid for a run with more users.

    More users leave it as it is, and so does a model's folder that was moved.
    """
    places = {"model_dir", "weights", "adapter"} if model.weights_hash else set()
    identity: dict[str, object] = {
        "dataset_fingerprint": identify_dataset(dataset),
        "model": model.model_dump(mode="json", exclude=places),
        "sides": list(_sides(variants)),
        "evaluate": config.evaluate.model_dump(mode="json", include=_DECIDES_EXAMPLES),
        **_identify_index(config),
    }
    if _generates_by_route(variants):
        identity["route"] = threshold
    return open_journal(storage.beside(out, ".journal"), identity, config.inference)


def _identify_index(config: RunConfig) -> dict[str, object]:
    """The index that candidates come from, if they are retrieved."""
    if config.evaluate.index is None:
        return {}
    count = config.evaluate.retrieved_count
    return {"index": read_version(config.evaluate.index), "num_retrieved": count}


def _describe(source: ModelSource, model_dir: str) -> ModelFacts:
    settings = read_settings(model_dir)
    counts = settings.get("supervised_tokens") if settings else None
    return ModelFacts(
        model_dir=model_dir,
        weights=source.path,
        adapter=source.adapter,
        revision=source.revision,
        weights_hash=hash_weights(source),
        form=source.form,
        arm=None if settings is None else read_arm(settings),
        supervised_tokens=SupervisedTokens(**counts) if counts else None,
    )


def evaluate_baseline(dataset: Dataset, name: str, out: str, config: RunConfig) -> Summary:
    """Evaluate a baseline on the same examples, into the same files.

    Raises:
        ConfigError: If there is no baseline of that name.
        DataError: If the split has no examples.
    """
    examples = partition_examples(dataset, config.evaluate)
    baseline = build_baseline(name, config)
    begin = time.monotonic()
    facts = baseline.fit(dataset, fit_folder(out))
    choosing_s = 0.0

    def choose_all() -> Iterator[EvaluatedPart]:
        nonlocal choosing_s
        for part in examples.read():
            since = time.monotonic()
            found = _choose(name, dataset, part, baseline, config.inference.seed)
            choosing_s += time.monotonic() - since
            yield EvaluatedPart(part, {name: found})

    fit_s = time.monotonic() - begin
    evaluation = Evaluation(
        identify_baseline(name),
        choose_all(),
        lambda: Details(fit=read_fit(facts, round(fit_s + choosing_s, 2))),
        form=config.prompt,
    )
    summary = write_evaluation(evaluation, dataset, out, config)
    if isinstance(baseline, Savable):
        baseline.save(dataset, storage.join(out, NETWORK))
    storage.delete_folder(fit_folder(out))
    return summary


def _choose(
    name: str, dataset: Dataset, examples: Sequence[Example], baseline: Baseline | Writer, seed: int
) -> list[Prediction]:
    """What a baseline chooses for some examples."""
    if isinstance(baseline, Writer):
        return _answered(name, examples, baseline.write(examples), seed)
    return _scored(name, dataset, examples, baseline.score(examples), seed)


def _scored(
    name: str,
    dataset: Dataset,
    examples: Sequence[Example],
    scores: Sequence[Sequence[float]],
    seed: int,
) -> list[Prediction]:
    """The best candidate of each example."""
    for example, found in zip(examples, scores, strict=True):
        if not np.isfinite(found).all():
            raise ModelError(
                f"{name}: the scores of {example.example_id} are {list(found)}; expected finite "
                "numbers; a training that diverged gives such, so lower its learning rate"
            )
    rows = zip(examples, choose(examples, scores, seed), scores, strict=True)
    return [
        Prediction(
            example.example_id,
            SideOutput(
                name, dataset.items[item_id].title, "", example.candidates.index(item_id), None, 0
            ),
            seed,
            candidate_scores=tuple(found),
        )
        for example, item_id, found in rows
    ]


def _answered(
    name: str, examples: Sequence[Example], answers: Sequence[WrittenChoice], seed: int
) -> list[Prediction]:
    """The candidate that each written answer names."""
    return [
        Prediction(
            example.example_id,
            SideOutput(name, answer.text, "", answer.index, None, answer.num_tokens),
            seed,
        )
        for example, answer in zip(examples, answers, strict=True)
    ]


def read_fit(facts: Facts, wall_s: float) -> FitResult:
    """Facts about a baseline's fit, typed if it was fitted by trials."""
    if not facts.get("sequential"):
        return FitResult(wall_s=wall_s, facts=facts)
    known = {name: facts[name] for name in SequentialFit.model_fields}
    return FitResult(wall_s=wall_s, sequential=SequentialFit.model_validate(known))


def fit_folder(out: str) -> str:
    """Folder for a baseline's fit; it is beside the evaluation, whose folder is replaced."""
    return storage.beside(out, ".fit")
