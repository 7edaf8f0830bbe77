"""Scores the reasoning of an evaluation against the teacher's correct paths for the same users.

This is separate from the evaluation, as it needs no engine and may cost money. It reads the
predictions and writes ``report/reasoning.json`` beside ``report/metrics.json``.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.errors import DataError
from msrrec.evaluation.examples import load_evaluation, partition_examples
from msrrec.evaluation.results import AnchorScore, Metric, MetricScore, ReasoningScores
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, iter_predictions, predictions_path
from msrrec.metrics.anchors import MAX_ANCHORED, Reference, TextAnchor, text_anchors
from msrrec.metrics.judge import judge_pairs
from msrrec.metrics.scores import JudgeFacts, Pair, Scores
from msrrec.metrics.statistics import Share, mean_interval
from msrrec.metrics.text import bertscore, gptscore_logprob, meteor
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.titles import REASONING_END, REASONING_START

_VOTES = "judge"
"""Folder of the judge's votes, inside the references' folder, so that evaluations share the votes
on anchors."""

_JUDGED = 5
"""Pairs of each anchor that the judge marks."""

_REFERENCE = ("example_id", "reasoning", schema.ITEM_ID)
"""The columns of kept paths that are read."""

Figures = dict[Metric, dict[Pair, float | None]]
"""One value per pair for each metric; None if it could not be measured."""


def score_evaluation(
    dataset: Dataset, evaluation: str, references: str, config: RunConfig, api_key: str | None
) -> Summary:
    """Score all variants of an evaluation on users with a reference, and write the scores.

    Args:
        dataset: The dataset of the evaluation.
        evaluation: Folder made by ``msrrec evaluate``.
        references: Folder made by ``msrrec synthesize`` for the evaluated split; its kept paths are
            the references, so users whom the teacher got wrong have none.
        config: Sections ``evaluate`` and ``judge``.
        api_key: API key of the judge.

    Raises:
        DataError: If no evaluated user has a reference.
        EngineError: If a metric's model or the judge can't be used.
    """
    evaluated = load_evaluation(evaluation, dataset)
    examples = partition_examples(dataset, evaluated.config.evaluate)
    paths = _references(references, examples)
    scored = {
        variant: _scored(evaluation, variant, examples, paths) for variant in evaluated.variants
    }
    first = (e for part in examples.read() for e in part if e.example_id in paths)
    anchors = text_anchors(_describe(dataset, list(islice(first, MAX_ANCHORED)), paths))
    pairs = list(dict.fromkeys(pair for found in scored.values() for pair, _ in found))
    figures, notes, judge = _measure(
        pairs, anchors, config, storage.join(references, _VOTES), api_key
    )
    result = ReasoningScores(
        references=references,
        num_references=len(paths),
        num_users=evaluated.num_users,
        notes=notes,
        judge=judge,
        variants={variant: _variant(found, figures) for variant, found in scored.items()},
        cases={case.example_id: paths.get(case.example_id) for case in evaluated.cases},
        anchors={name: _anchor(found, figures) for name, found in anchors.items() if found},
    )
    result.save(evaluation)
    return result.summary()


def scored_text(output: SideOutput) -> str:
    """The text that is scored: the reasoning, or the whole output if there is none."""
    whole = output.text.replace(REASONING_START, "").replace(REASONING_END, "")
    return (output.reasoning or whole).strip()


def _references(folder: str, examples: Partitions) -> dict[str, str]:
    """The kept paths of evaluated users that recommend the target, by example id."""
    file = storage.join(folder, schema.PATHS_FILE)
    answered = {row["example_id"] for row in storage.iter_rows(file, schema.PATHS, ("example_id",))}
    targets = {
        e.example_id: e.target for part in examples.read() for e in part if e.example_id in answered
    }
    found = {
        row["example_id"]: row["reasoning"]
        for row in storage.iter_rows(file, schema.PATHS, _REFERENCE)
        if targets.get(row["example_id"]) == row[schema.ITEM_ID]
    }
    if not found:
        raise DataError(
            f"{file}: has no path of an evaluated user; expected the folder of `msrrec synthesize` "
            "with synthesis.split set to the evaluated split"
        )
    return found


def _scored(
    evaluation: str, variant: str, examples: Partitions, paths: Mapping[str, str]
) -> list[tuple[Pair, bool]]:
    """Text and reference of each user with one, and whether the variant chose the target."""
    file = predictions_path(evaluation, variant)
    return [
        (
            (scored_text(prediction.output), paths[example.example_id]),
            _is_hit(prediction, example),
        )
        for part, predictions in zip(examples.read(), iter_predictions(file, examples), strict=True)
        for example, prediction in zip(part, predictions, strict=True)
        if example.example_id in paths
    ]


def _is_hit(prediction: Prediction, example: Example) -> bool:
    return prediction.item_id(example.candidates) == example.target


def _describe(
    dataset: Dataset, examples: Sequence[Example], paths: Mapping[str, str]
) -> list[Reference]:
    """The references of some examples, with what they are about."""
    return [
        Reference(
            paths[example.example_id],
            dataset.titles(example.history),
            dataset.items[example.target].title,
            _shared_category(dataset, example),
        )
        for example in examples
    ]


def _shared_category(dataset: Dataset, example: Example) -> str | None:
    """The target's narrowest category if a purchase of the history has it too."""
    wanted = dataset.items[example.target].categories[-1:]
    bought = {dataset.items[item_id].categories[-1:] for item_id in example.history}
    return wanted[0] if wanted and wanted in bought else None


def _measure(
    pairs: Sequence[Pair],
    anchors: Mapping[TextAnchor, Sequence[Pair]],
    config: RunConfig,
    votes: str,
    api_key: str | None,
) -> tuple[Figures, dict[Metric, str], JudgeFacts | None]:
    """The values of each requested metric, and what it was measured with.

    The judge, who costs money, marks the first few pairs of every anchor.
    """
    evaluate = config.evaluate
    judged_pairs = _unite(pairs, [found[:_JUDGED] for found in anchors.values()])
    pairs = _unite(pairs, anchors.values())
    found: dict[Metric, Scores] = {"meteor": meteor(pairs)}
    if evaluate.bertscore_model:
        model, num_layers = evaluate.bertscore_model, evaluate.bertscore_layers
        found["bertscore_f1"] = bertscore(pairs, model, num_layers)
    if evaluate.gptscore_model:
        found["gptscore_logprob"] = gptscore_logprob(pairs, evaluate.gptscore_model)
    figures: Figures = {
        name: dict(zip(pairs, scores.values, strict=True)) for name, scores in found.items()
    }
    notes = {name: scores.note for name, scores in found.items()}
    if not config.judge.base_url:
        return figures, notes, None
    judged = judge_pairs(judged_pairs, config.judge, votes, api_key)
    figures["judge_0_100"] = dict(zip(judged_pairs, judged.values, strict=True))
    return figures, notes, judged.facts


def _unite(pairs: Sequence[Pair], others: Iterable[Sequence[Pair]]) -> list[Pair]:
    """All pairs, each once."""
    return list(dict.fromkeys((*pairs, *chain.from_iterable(others))))


def _anchor(pairs: Sequence[Pair], figures: Figures) -> dict[Metric, AnchorScore]:
    """Means of every metric over the pairs of one anchor."""
    scores = {}
    for name, values in figures.items():
        measured = [pair for pair in pairs if pair in values]
        scores[name] = AnchorScore(mean=_mean(values, measured), num_pairs=len(measured))
    return scores


def _variant(scored: Sequence[tuple[Pair, bool]], figures: Figures) -> dict[Metric, MetricScore]:
    """Means of every metric over all users with a reference, and over the correct ones."""
    pairs = [pair for pair, _ in scored]
    right = [pair for pair, is_hit in scored if is_hit]
    return {
        name: MetricScore(
            all=_mean(values, pairs), correct=_mean(values, right), num_users=len(pairs)
        )
        for name, values in figures.items()
    }


def _mean(values: Mapping[Pair, float | None], pairs: Sequence[Pair]) -> Share | None:
    return mean_interval([v for v in map(values.__getitem__, pairs) if v is not None])
