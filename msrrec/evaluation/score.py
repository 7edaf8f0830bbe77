"""The reasoning of a finished evaluation against the teacher's correct paths for the same users.

Apart from the evaluation, because it needs no engine and may cost money: it reads the rows and
writes ``report/reasoning.json`` beside ``report/metrics.json``, from where the report takes it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.metrics.judge import judge_pairs
from msrrec.metrics.statistics import mean_interval
from msrrec.metrics.text import Pair, bertscore, gptscore_logprob, meteor
from msrrec.titles import REASONING_END, REASONING_START

logger = logging.getLogger(__name__)

SCORES = "report/reasoning.json"
_VOTES = "judge"
"""Folder of the judge's votes, beside the references: all evaluations against them share it."""

Row = Mapping[str, Any]


def score_evaluation(
    dataset: Dataset, evaluation: str, references: str, config: RunConfig, api_key: str | None
) -> dict[str, Any]:
    """Score every variant of an evaluation whose users have a reference, and write the figures.

    Args:
        dataset: The evaluated one.
        evaluation: Folder made by ``msrrec evaluate``.
        references: Folder made by ``msrrec synthesize`` for the evaluated split; its kept paths are
            the references, so users whom the teacher got wrong have none.
        config: Sections ``evaluate`` and ``judge``.
        api_key: The judge's.

    Raises:
        DataError: If no evaluated user has a reference.
        EngineError: If a metric's model or the judge can't be used.
    """
    metrics = storage.read_json(storage.join(evaluation, "report/metrics.json"))
    if metrics["dataset"]["fingerprint"] != dataset.fingerprint:
        raise DataError(
            f"{evaluation}: evaluates {metrics['dataset']['path']}; expected {dataset.path} as it "
            "is now; give the dataset that was evaluated"
        )
    examples = dataset.examples(metrics["split"], metrics["num_users"])
    targets = {example.example_id: example.target for example in examples}
    paths = _references(references, targets)
    rows = {variant: _rows(evaluation, variant, paths) for variant in metrics["variants"]}
    pairs = list(
        dict.fromkeys(
            (written(row), paths[row["example_id"]]) for found in rows.values() for row in found
        )
    )
    figures, notes = _all_scores(pairs, config, storage.join(references, _VOTES), api_key)
    variants = {
        variant: _variant(found, paths, targets, figures) for variant, found in rows.items()
    }
    result = {
        "references": references,
        "num_references": len(paths),
        "num_users": metrics["num_users"],
        "notes": notes,
        "variants": variants,
        "cases": {
            case["example_id"]: paths.get(case["example_id"]) for case in metrics.get("cases", ())
        },
    }
    storage.write_json(storage.join(evaluation, SCORES), result)
    return {name: value for name, value in result.items() if name != "cases"}


def written(row: Row) -> str:
    """What a row says: its reasoning, or where it has none all that was written."""
    text = row["reasoning"] or row["text"].replace(REASONING_START, "").replace(REASONING_END, "")
    return str(text).strip()


def _references(folder: str, targets: Mapping[str, str]) -> dict[str, str]:
    """The kept paths of evaluated users whose item is the target, by example."""
    file = storage.join(folder, "paths.parquet")
    table = storage.read_table(file, schema.PATHS)
    found = {
        row["example_id"]: row["reasoning"]
        for row in table.to_pylist()
        if targets.get(row["example_id"]) == row[schema.ITEM_ID]
    }
    if not found:
        raise DataError(
            f"{file}: has no path of an evaluated user; expected the folder of `msrrec synthesize` "
            "with synthesis.split set to the evaluated split"
        )
    return found


def _rows(evaluation: str, variant: str, paths: Mapping[str, str]) -> list[Row]:
    file = storage.join(evaluation, "predictions", f"{variant}.parquet")
    table = storage.read_table(file, schema.PREDICTIONS)
    return [row for row in table.to_pylist() if row["example_id"] in paths]


Figures = dict[str, dict[Pair, float | None]]


def _all_scores(
    pairs: Sequence[Pair], config: RunConfig, votes: str, api_key: str | None
) -> tuple[Figures, dict[str, Any]]:
    """Each metric that is asked for, a figure a pair, and with what it was measured."""
    evaluate = config.evaluate
    found = {"meteor": meteor(pairs)}
    if evaluate.bertscore_model:
        model, num_layers = evaluate.bertscore_model, evaluate.bertscore_layers
        found["bertscore_f1"] = bertscore(pairs, model, num_layers)
    if evaluate.gptscore_model:
        found["gptscore_logprob"] = gptscore_logprob(pairs, evaluate.gptscore_model)
    figures: Figures = {
        name: dict(zip(pairs, scores.values, strict=True)) for name, scores in found.items()
    }
    notes: dict[str, Any] = {name: scores.note for name, scores in found.items()}
    if config.judge.base_url:
        judged = judge_pairs(pairs, config.judge, votes, api_key)
        figures["judge_0_100"] = dict(zip(pairs, judged.pop("values"), strict=True))
        notes["judge_0_100"] = judged
    return figures, notes


def _variant(
    rows: Sequence[Row], paths: Mapping[str, str], targets: Mapping[str, str], figures: Figures
) -> dict[str, Any]:
    """Every metric over all users with a reference, and over those that the variant got right."""
    pairs = [(written(row), paths[row["example_id"]]) for row in rows]
    right = [row[schema.ITEM_ID] == targets[row["example_id"]] for row in rows]
    hits = [pair for pair, is_right in zip(pairs, right, strict=True) if is_right]
    return {
        name: {"all": _mean(values, pairs), "correct": _mean(values, hits), "num_users": len(pairs)}
        for name, values in figures.items()
    }


def _mean(values: Mapping[Pair, float | None], pairs: Sequence[Pair]) -> dict[str, float] | None:
    found = [value for value in map(values.__getitem__, pairs) if value is not None]
    share = mean_interval(found)
    return asdict(share) if share else None
