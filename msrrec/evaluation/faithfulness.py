"""Whether a model's choices follow from its chains: chains are changed and the answer asked again.

After Lanham et al. (2307.13702). Every choice is compared with the one that the model makes after
its own unchanged chain, by greedy decoding among the candidates. Sampling alone changes choices
too, so each intervention stands beside a control that is sampled in the same way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msrrec.config import InferenceConfig, PromptConfig, RunConfig
from msrrec.config.evaluate import Intervention
from msrrec.data.dataset import Dataset
from msrrec.engines.base import Generation
from msrrec.errors import DataError, ModelError
from msrrec.evaluation.examples import load_evaluation, partition_examples
from msrrec.evaluation.interventions import Control, FaithfulnessResult, InterventionResult
from msrrec.evaluation.paraphrases import write_paraphrases
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.trials import KEPT, Case, Trial, is_sampled, plan_trials, trial_names
from msrrec.fingerprint import hash_weights
from msrrec.inference.batch import BuildRecommender
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import iter_predictions, predictions_path
from msrrec.inference.recommender import Recommender
from msrrec.log import Progress
from msrrec.metrics.statistics import holm, mcnemar, wilson
from msrrec.models import ModelSource, locate_model
from msrrec.reasoning.edits import find_steps
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import STEPS, Side
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.titles import show_titles

CHAIN_SIDES: tuple[Side, ...] = ("full", "user", "item")
"""The sides that write chains, in the order in which one is chosen."""

_CONTROLS: Mapping[Intervention, Control] = {
    "cut": "unchanged",
    "filler": "unchanged",
    "mistake": "continued",
    "paraphrase": "continued",
    "random_removed": "regenerated",
    "cited_removed": "random_removed",
    "shuffled": "regenerated",
}
_LABELS = {
    "unchanged": "control: the chain kept, the answer sampled",
    "continued": "control: the chain kept to the end of its matching step, the rest sampled",
    "regenerated": "control: the whole chain sampled again",
    "mistake": "another candidate named in the matching step, the rest sampled",
    "paraphrase": "the chain to the end of its matching step in other words, the rest sampled",
    "filler": "filler of the chain's length in its place",
    "cited_removed": "the cited purchases left out, all sampled again",
    "random_removed": "as many other purchases left out, all sampled again",
    "shuffled": "the history shuffled, all sampled again",
}

Choices = Mapping[str, Mapping[str, int | None]]
"""0-based candidates by name of the intervention and example id."""


@dataclass(frozen=True)
class _Read:
    """What trials gave: choices, and the candidates that mistakes named."""

    choices: dict[str, dict[str, int | None]]
    named: dict[str, int]


def measure_faithfulness(
    dataset: Dataset,
    evaluation: str,
    model_dir: str,
    config: RunConfig,
    side: Side | None = None,
    build: BuildRecommender = Recommender.from_source,
    keys: Mapping[str, str] | None = None,
) -> Summary:
    """Change the chains of an evaluation, ask for the answers again, and write how many changed.

    Args:
        dataset: The dataset of the evaluation.
        evaluation: Folder made by ``msrrec evaluate``; its chains are the ones that are changed.
        model_dir: The evaluated model.
        config: Section ``evaluate``; ``inference`` for what only affects speed; ``teacher`` where
            it writes the paraphrases.
        side: Whose chains; None for the first of ``CHAIN_SIDES`` that was evaluated.
        build: Makes the recommender.
        keys: API keys of the teacher by the names of their environment variables.

    Raises:
        DataError: If the evaluation is of another dataset, or has no whole chain.
        ModelError: If the model is another one than the evaluated.
        EngineError: If the engine can't start or fails, or the teacher does.
    """
    evaluated = load_evaluation(evaluation, dataset)
    chosen = _choose_side(evaluated, evaluation, side)
    source = _locate(evaluated, model_dir, config)
    num_whole, first = 0, list[Case]()
    for case in _iter_cases(dataset, evaluated, evaluation, chosen, source.form):
        num_whole += 1
        if len(first) < (config.evaluate.intervention_users or num_whole):
            first.append(case)
    paraphrased = write_paraphrases(first, chosen, dataset, evaluation, config, keys or {})
    cases = paraphrased.cases
    recommender = build(source, _inference(evaluated, config))
    found = _ask_all(recommender, cases, chosen, config)
    rows = _summarize(cases, found, chosen, config.evaluate.interventions)
    kept = [_hits(case, found.choices[KEPT][case.key]) for case in cases]
    result = FaithfulnessResult(
        system=evaluated.system.label,
        side=chosen,
        num_evaluated=evaluated.num_users,
        num_whole=num_whole,
        num_users=len(cases),
        hit_ratio=wilson(sum(kept), len(kept)),
        temperature=recommender.config.temperature,
        seed=recommender.config.seed,
        paraphraser=paraphrased.paraphraser,
        paraphrases=paraphrased.facts,
        rows=tuple(rows),
    )
    result.save(evaluation)
    return result.summary()


def _choose_side(evaluated: EvaluationResult, folder: str, side: Side | None) -> Side:
    there = [name for name in CHAIN_SIDES if name in evaluated.variants]
    if not there or (side is not None and side not in there):
        raise DataError(
            f"{folder}: found the variants {', '.join(evaluated.variants)}; expected "
            f"{side or 'one of ' + ', '.join(CHAIN_SIDES)}, which writes chains; evaluate with "
            f"--variant {side or CHAIN_SIDES[0]}"
        )
    return side or there[0]


def _locate(evaluated: EvaluationResult, model_dir: str, config: RunConfig) -> ModelSource:
    form = evaluated.model.form if evaluated.model else config.prompt
    source = locate_model(model_dir, config.model, form)
    known = evaluated.weights_hash
    if known is not None and hash_weights(source) != known:
        raise ModelError(
            f"{model_dir}: holds other weights than the evaluation of {evaluated.system.label}; "
            "expected the model that wrote its chains; give that one, or evaluate this one"
        )
    return source


def _inference(evaluated: EvaluationResult, config: RunConfig) -> InferenceConfig:
    """The evaluation's settings, with answers constrained to candidates."""
    ours = config.inference
    speed = {"batch_size": ours.batch_size, "kv_cache_gib": ours.kv_cache_gib}
    bound = {"constrained": True, "candidate_logprobs": False, "unconditional_perplexity": False}
    return evaluated.config.inference.model_copy(update={**speed, **bound})


def _iter_cases(
    dataset: Dataset, evaluated: EvaluationResult, folder: str, side: Side, form: PromptConfig
) -> Iterator[Case]:
    """The users with a whole chain and a valid choice, one by one."""
    examples = partition_examples(dataset, evaluated.config.evaluate)
    file, num_whole = predictions_path(folder, side), 0
    pairs = zip(examples.read(), iter_predictions(file, examples), strict=True)
    for example, prediction in (pair for both in pairs for pair in zip(*both, strict=True)):
        case = _make_case(dataset, example, prediction.output, side, form)
        if case is not None:
            num_whole += 1
            yield case
    if not num_whole:
        raise DataError(
            f"{file}: no output has all steps of its chain and a valid choice; expected at least "
            "one; evaluate a model that was trained on chains"
        )


def _make_case(
    dataset: Dataset, example: Example, output: SideOutput, side: Side, form: PromptConfig
) -> Case | None:
    """One user; None if the chain is not whole or the choice is invalid."""
    steps = find_steps(output.reasoning, side)
    if steps is None or output.index is None or example.target_slot < 0:
        return None
    titles = [tuple(dataset.titles(ids)) for ids in (example.history, example.candidates)]
    query = Query(example.example_id, dataset.domain, *titles)
    shown = tuple(show_titles(query.candidates, form.max_title_chars))
    purchases = tuple(dataset.items[item_id] for item_id in example.history)
    target = example.target_slot
    return Case(query, shown, purchases, target, output.reasoning, tuple(steps), output.index)


def _ask_all(
    recommender: Recommender, cases: Sequence[Case], side: Side, config: RunConfig
) -> _Read:
    """The choice of every trial of every case, in batches."""
    assert recommender.engine is not None
    names = trial_names(side, config.evaluate.interventions)
    found = _Read({name: {} for name in names}, {})
    size = recommender.config.batch_size
    with Progress("faithfulness", len(cases), "users") as progress:
        for n in range(0, len(cases), size):
            batch = cases[n : n + size]
            trials = [
                trial for case in batch for trial in plan_trials(recommender, case, side, names)
            ]
            generations = recommender.engine.generate([trial.request for trial in trials])
            for trial, generation in zip(trials, generations, strict=True):
                index = _read(recommender, trial, side, generation)
                found.choices[trial.name][trial.case.key] = index
                if trial.named is not None:
                    found.named[trial.case.key] = trial.named
            progress.advance(len(batch))
    return found


def _read(recommender: Recommender, trial: Trial, side: Side, generation: Generation) -> int | None:
    """The candidate that a trial's generation names."""
    if is_sampled(trial.name):
        return recommender.read(trial.case.query, side, generation).index
    choice = trial.request.choice
    assert choice is not None
    answers = list(choice.answers)
    written = tuple(generation.token_ids)
    return answers.index(written) if written in answers else None


def _summarize(
    cases: Sequence[Case], found: _Read, side: Side, interventions: Sequence[Intervention]
) -> list[InterventionResult]:
    """One row per control and intervention, with corrected p-values."""
    choices: dict[str, Mapping[str, int | None]] = {
        **found.choices,
        "unchanged": {case.key: case.index for case in cases},
    }
    names = [*dict.fromkeys(n for n in _iter_controls(interventions) if n in _LABELS)]
    shown = [name for name in found.choices if name != KEPT and name not in names]
    rows = [_row(name, cases, choices, found.named, side) for name in (*names, *shown)]
    tested = [row for row in rows if row.against is not None]
    adjusted = holm([row.against.p_value for row in tested if row.against is not None])
    by_name = {row.name: p_value for row, p_value in zip(tested, adjusted, strict=True)}
    return [row.model_copy(update={"p_adjusted": by_name.get(row.name)}) for row in rows]


def _iter_controls(interventions: Sequence[Intervention]) -> Iterator[Control]:
    """The controls that are no interventions themselves."""
    for name in interventions:
        control = _CONTROLS[name]
        yield "regenerated" if control == "random_removed" else control


def _row(
    name: str,
    cases: Sequence[Case],
    choices: Choices,
    named: Mapping[str, int],
    side: Side,
) -> InterventionResult:
    asked = [case for case in cases if case.key in choices[name]]
    changed = _changed(name, asked, choices)
    control = _control_of(name)
    before = _changed(control, asked, choices) if control else []
    hits = [_hits(case, choices[name][case.key]) for case in asked]
    followed = [choices[name][case.key] == named[case.key] for case in asked if case.key in named]
    return InterventionResult(
        name=name,
        label=_label(name, side),
        num_users=len(asked),
        changed=wilson(sum(changed), len(changed)),
        hit_ratio=wilson(sum(hits), len(hits)),
        control=control,
        control_changed=wilson(sum(before), len(before)),
        against=mcnemar(changed, before) if control and asked else None,
        followed=wilson(sum(followed), len(followed)) if name == "mistake" else None,
    )


def _changed(name: str, cases: Sequence[Case], choices: Choices) -> list[bool]:
    return [choices[name][case.key] != choices[KEPT][case.key] for case in cases]


def _hits(case: Case, index: int | None) -> bool:
    return index == case.target


def _control_of(name: str) -> Control | None:
    kind = "cut" if name.startswith("cut_") else name
    return next((control for known, control in _CONTROLS.items() if known == kind), None)


def _label(name: str, side: Side) -> str:
    if not name.startswith("cut_"):
        return _LABELS[name]
    count = int(name.removeprefix("cut_"))
    return f"chain cut after step {count} of {len(STEPS[side])}" if count else "no chain at all"
