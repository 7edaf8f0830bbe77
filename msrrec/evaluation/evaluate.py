"""Evaluation of a trained model, a base model or a baseline on the frozen examples of a split."""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msrrec import storage
from msrrec.baselines import build_baseline
from msrrec.baselines.interface import Facts, Writer, WrittenChoice, choose
from msrrec.config import PromptConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.errors import ConfigError
from msrrec.evaluation.agreement import fusion_table
from msrrec.evaluation.cases import pick_cases
from msrrec.evaluation.examples import evaluated_examples
from msrrec.evaluation.fusion_study import Learned, Sides, fusion_study, learn
from msrrec.evaluation.results import (
    Details,
    Errors,
    FitResult,
    FusionResult,
    ModelFacts,
    RateTrial,
    Refused,
    RoutingResult,
    SequentialFit,
    SideMetrics,
    Speed,
)
from msrrec.evaluation.routing import choose_threshold, measure_route
from msrrec.evaluation.systems import identify_baseline, identify_model
from msrrec.evaluation.write import DEAD_LETTERS, Evaluation, write_evaluation
from msrrec.fingerprint import hash_weights, identify_dataset
from msrrec.inference.batch import BuildRecommender, open_journal, predict
from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.journal import OutputJournal
from msrrec.inference.predictions import Prediction
from msrrec.inference.recommender import MODES, Mode, Recommender, require_threshold, sides_of
from msrrec.models import ModelSource, SupervisedTokens, locate_model, read_arm, read_settings
from msrrec.reasoning.prompts import Side
from msrrec.reasoning.reading import read_lenient
from msrrec.schema import Example, Split
from msrrec.stage import Summary
from msrrec.titles import show_titles

logger = logging.getLogger(__name__)

NO_SIDE = "none"
"""The ``side`` of a fused prediction if neither side was valid."""

_MAX_ERRORS = 20
_DECIDES_EXAMPLES = {"split", "permutation", "negatives", "num_negatives"}

_NOBODY = SideOutput(NO_SIDE, "", "", None, None, 0)

Outputs = dict[Side, SideOutput]
"""The outputs of one example, by side."""


@dataclass(frozen=True)
class _Run:
    """The outputs of a model for all examples.

    Attributes:
        predictions: Predictions ordered by example, sample and side.
        outputs: The first sample of every side, one entry per example.
        decisions: The recommendations of each variant.
        seconds: Duration in seconds, engine start included.
        threshold: Of the route; None where none is known.
    """

    examples: list[Example]
    predictions: list[Prediction]
    outputs: list[Outputs]
    decisions: dict[Mode, list[Recommendation]]
    seconds: float
    threshold: float | None


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
    examples = evaluated_examples(dataset, config.evaluate)
    learned = learn(config.evaluate.gate, dataset) if config.evaluate.gate else Learned()
    model = _describe(source, model_dir)
    threshold = _threshold(variants, config, learned)
    journal = _journal(out, dataset, model, variants, config, threshold)
    run = _generate(examples, dataset, source, variants, config, build, journal, threshold)
    constrained = config.inference.constrained
    refused = _refused(run.predictions)
    evaluation = Evaluation(
        system=identify_model(source, model_dir, name, constrained=constrained, variants=variants),
        examples=examples,
        predictions={variant: _chosen(variant, run) for variant in run.decisions},
        refused=refused,
        samples=[p for p in run.predictions if p.sample],
        details=_details(run, dataset, model, refused, learned).model_copy(
            update={
                "rate_trials": tuple(rate_trials),
                "routing": _routing(run, config.evaluate.split),
            }
        ),
        lenient=_lenient(run, dataset, source.form),
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
    }
    if _generates_by_route(variants):
        identity["route"] = threshold
    return open_journal(f"{out.rstrip('/')}.journal", identity, config.inference)


def _generate(
    examples: list[Example],
    dataset: Dataset,
    source: ModelSource,
    variants: Sequence[Mode],
    config: RunConfig,
    build: BuildRecommender,
    journal: OutputJournal,
    threshold: float | None,
) -> _Run:
    sides, inference = _sides(variants), config.inference
    route = {"route_threshold": threshold} if _generates_by_route(variants) else {}
    begin = time.monotonic()
    parts = predict(
        Partitions.split(examples), dataset, source, sides, inference, journal, build, **route
    )
    predictions = [prediction for _, found in parts for prediction in found]
    seconds = time.monotonic() - begin
    outputs = _by_example([p for p in predictions if p.sample == 0])
    decisions = {v: [Recommender.decide(v, both, threshold) for both in outputs] for v in variants}
    return _Run(examples, predictions, outputs, decisions, seconds, threshold)


def _by_example(predictions: Sequence[Prediction]) -> list[Outputs]:
    """The sides of each example, from predictions ordered by example."""
    found: dict[str, Outputs] = defaultdict(dict)
    for prediction in predictions:
        output = prediction.output
        found[prediction.example_id][output.side] = output  # type: ignore[index]
    return list(found.values())


def _chosen(variant: Mode, run: _Run) -> list[Prediction]:
    """One prediction per user: the chosen side's, or an invalid one."""
    seeds = {(p.example_id, p.output.side): p.seed for p in run.predictions if p.sample == 0}
    chosen = []
    for example, both, decision in zip(
        run.examples, run.outputs, run.decisions[variant], strict=True
    ):
        own = next((output for side, output in both.items() if side == variant), _NOBODY)
        output = decision.chosen or own
        seed = seeds.get((example.example_id, output.side), 0)
        chosen.append(Prediction(example.example_id, output, seed))
    return chosen


def _lenient(run: _Run, dataset: Dataset, form: PromptConfig) -> dict[str, list[int | None]]:
    """What each variant chooses where its sides are read leniently."""
    titles = (dataset.titles(example.candidates) for example in run.examples)
    lists = [show_titles(some, form.max_title_chars) for some in titles]
    outputs: list[Outputs] = [
        {
            side: replace(output, index=read_lenient(output.text, shown))
            for side, output in both.items()
        }
        for shown, both in zip(lists, run.outputs, strict=True)
    ]
    return {
        variant: [Recommender.decide(variant, both, run.threshold).index for both in outputs]
        for variant in run.decisions
    }


def _details(
    run: _Run, dataset: Dataset, model: ModelFacts, refused: Sequence[Refused], learned: Learned
) -> Details:
    sides = dict.fromkeys(side for both in run.outputs for side in both)
    return Details(
        model=model,
        errors=Errors(num_refused=len(refused), first=tuple(refused[:_MAX_ERRORS])),
        speed=_speed(run.predictions, run.seconds),
        sides={
            side: _side_metrics([both[side] for both in run.outputs if side in both])
            for side in sides
        },
        generated_tokens={variant: _mean_tokens(run, variant) for variant in run.decisions},
        cases=tuple(pick_cases(dataset, run.examples, run.outputs, run.decisions)),
        fusion=_fusion(run, learned) if "fused" in run.decisions else None,
    )


def _mean_tokens(run: _Run, variant: Mode) -> float:
    """Tokens that a variant generates per user; of a route, only what it takes."""
    if variant != "routed":
        return sum(mean_tokens(run.outputs, side) for side in sides_of(variant))
    sides = [side for decision in run.decisions[variant] for side in decision.sides]
    return sum(side.num_tokens for side in sides) / len(run.examples)


def _routing(run: _Run, split: Split) -> RoutingResult | None:
    """The route by a known threshold, or on validation by the one that these users choose."""
    if "direct" not in run.decisions or not {"fused", "routed"} & run.decisions.keys():
        return None
    if run.threshold is not None:
        return measure_route(run.examples, run.outputs, run.threshold)
    if split != "validation":
        return None
    threshold = choose_threshold(run.examples, run.outputs)
    return measure_route(run.examples, run.outputs, threshold, is_chosen_here=True)


def _fusion(run: _Run, learned: Learned) -> FusionResult:
    table = fusion_table(run.examples, run.outputs, run.decisions["fused"])
    study = fusion_study(run.examples, _with_samples(run), learned.gate, learned.chosen)
    return table.model_copy(update={"study": study, "gate": learned.gate})


def _with_samples(run: _Run) -> list[Sides]:
    """The sides of each example, and further samples under their own names, which can vote."""
    voters: dict[str, dict[str, SideOutput]] = defaultdict(dict)
    for p in run.predictions:
        name = f"{p.output.side}#{p.sample}" if p.sample else p.output.side
        voters[p.example_id][name] = p.output
    return [voters[example.example_id] for example in run.examples]


def _describe(source: ModelSource, model_dir: str) -> ModelFacts:
    settings = read_settings(Path(model_dir))
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


def _refused(predictions: Sequence[Prediction]) -> list[Refused]:
    """The samples that were refused, and why."""
    refused = [
        Refused(example_id=p.example_id, side=p.output.side, error=p.error)
        for p in predictions
        if p.error is not None
    ]
    if refused:
        logger.warning(
            "%d of %d samples were refused and count as misses, see %s; the first: %s",
            len(refused),
            len(predictions),
            DEAD_LETTERS,
            refused[0].error,
        )
    return refused


def _speed(predictions: Sequence[Prediction], seconds: float) -> Speed:
    tokens = sum(p.output.num_tokens for p in predictions if not p.is_resumed)
    return Speed(
        num_resumed=sum(p.is_resumed for p in predictions),
        wall_s=round(seconds, 2),
        num_tokens=tokens,
        tokens_per_s=round(tokens / seconds, 1) if seconds else 0.0,
    )


def mean_tokens(outputs: Sequence[Outputs], side: Side) -> float:
    """Mean number of tokens of one side's outputs."""
    return sum(both[side].num_tokens for both in outputs) / len(outputs)


def _side_metrics(outputs: Sequence[SideOutput]) -> SideMetrics:
    perplexities = sorted(o.perplexity for o in outputs if o.perplexity is not None)
    return SideMetrics(
        num_outputs=len(outputs),
        mean_tokens=sum(o.num_tokens for o in outputs) / len(outputs),
        median_perplexity=perplexities[len(perplexities) // 2] if perplexities else None,
    )


def evaluate_baseline(dataset: Dataset, name: str, out: str, config: RunConfig) -> Summary:
    """Evaluate a baseline on the same examples, into the same files.

    Raises:
        ConfigError: If there is no baseline of that name.
        DataError: If the split has no examples.
    """
    examples = evaluated_examples(dataset, config.evaluate)
    seed = config.inference.seed
    baseline = build_baseline(name, config)
    begin = time.monotonic()
    facts = baseline.fit(dataset, fit_folder(out))
    if isinstance(baseline, Writer):
        found = _answered(name, examples, baseline.write(examples), seed)
    else:
        found = _scored(name, dataset, examples, baseline.score(examples), seed)
    seconds = round(time.monotonic() - begin, 2)
    details = Details(fit=read_fit(facts, seconds))
    evaluation = Evaluation(
        identify_baseline(name), examples, {name: found}, details=details, form=config.prompt
    )
    summary = write_evaluation(evaluation, dataset, out, config)
    storage.delete_folder(fit_folder(out))
    return summary


def _scored(
    name: str,
    dataset: Dataset,
    examples: Sequence[Example],
    scores: Sequence[Sequence[float]],
    seed: int,
) -> list[Prediction]:
    """The best candidate of each example."""
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
    return f"{out.rstrip('/')}.fit"
