"""The paper's Figure 6: training and evaluation at several weights of the two losses.

Ray Tune runs the points with the usual stages. Every point's folder holds finished stages, so a
killed sweep can be resumed and a sweep can be extended.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence

from msrrec import log, storage
from msrrec.cluster import quiet_ray_data, ray_storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError, MsrRecError
from msrrec.evaluation.results import EvaluationResult, Metric, MetricScore, ReasoningScores
from msrrec.inference.recommender import Mode
from msrrec.metrics.statistics import Share
from msrrec.page import render_page
from msrrec.report.paper import DATASETS, FIGURE_6_POINT
from msrrec.report.plots import sweep_figure
from msrrec.report.results import PointVariant, SweepPoint, SweepResult
from msrrec.report.views import METRICS
from msrrec.stage import EVALUATE, SCORE, TRAIN, Call, Summary

_TUNE = "tune"
_MAX_LOST = 3
"""Times that a point whose process is lost, as with its machine, is started again."""


def sweep(
    dataset: str,
    reasoning: str,
    out: str,
    config: RunConfig,
    variants: Sequence[Mode],
    *,
    references: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> Summary:
    """Train and evaluate at every alpha, then write ``sweep.json`` and ``index.html``.

    Args:
        dataset: Dataset made by ``msrrec prepare``.
        reasoning: Folder made by ``msrrec synthesize``.
        out: The folder to write; a local one is shared by all nodes.
        config: Sections ``sweep``, ``train``, ``model``, ``inference`` and ``evaluate``.
        variants: Variants to evaluate.
        references: Folder made by ``msrrec synthesize`` for the split of the sweep, against which
            the reasoning of every point is scored; None scores none.
        keys: API keys by the names of their environment variables, for a judge.

    Raises:
        MsrRecError: What a point raised.
    """
    folder = storage.absolute(out)
    dataset, reasoning = (storage.absolute(path) for path in (dataset, reasoning))
    alphas = sorted(config.sweep.alphas)

    def run(alpha: float) -> None:
        run_point(dataset, reasoning, storage.join(folder, name_of(alpha)), config, variants, alpha)

    run_points(run, alphas, folder, config.sweep.concurrency)
    if references is not None:
        for alpha in alphas:
            score_point(
                dataset, references, storage.join(folder, name_of(alpha)), config, keys or {}
            )
    points = [read_point(folder, alpha) for alpha in alphas]
    best = {name: max(points, key=lambda point: hit_ratio(point, name)) for name in variants}
    best_alpha = {name: point.alpha for name, point in best.items()}
    result = SweepResult(split=config.sweep.split, points=tuple(points), best_alpha=best_alpha)
    page = storage.join(folder, "index.html")
    result.save(folder)
    storage.write_bytes(page, render_sweep(result, Dataset.load(dataset).domain))
    ratios = {name: round(hit_ratio(point, name), 4) for name, point in best.items()}
    return {"out": out, "page": page, "best_alpha": best_alpha, "hit_ratio": ratios}


def run_points(
    run: Callable[[float], None], alphas: Sequence[float], folder: str, concurrency: int
) -> None:
    """Run every point on Ray Tune.

    A point reserves no resources itself: its workers and engines get theirs outside the trial's
    placement group. Tune's own records are discarded, as stages record what is finished. So a point
    whose machine is lost goes on elsewhere from what its stages have kept.

    Raises:
        MsrRecError: What a point raised.
    """
    from ray import tune  # seconds to import

    def run_trial(settings: dict[str, float]) -> dict[str, MsrRecError | None]:
        log.setup()
        quiet_ray_data()
        try:
            run(settings["alpha"])
        except MsrRecError as error:
            return {"refusal": error}
        return {"refusal": None}

    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"memory": 1}),
        param_space={"alpha": tune.grid_search(list(alphas))},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrency),
        run_config=tune.RunConfig(
            name=_TUNE,
            **ray_storage(folder),
            failure_config=tune.FailureConfig(max_failures=_MAX_LOST),
            verbose=0,
        ),
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Tune prints deleted folders
            results = tuner.fit()
    finally:
        with contextlib.suppress(OSError, DataError):
            storage.delete_folder(storage.join(folder, _TUNE))
    refusals = [(result.metrics or {}).get("refusal") for result in results]
    for error in (*refusals, *results.errors):
        if error is not None:
            raise error


def run_point(
    dataset: str,
    reasoning: str,
    folder: str,
    config: RunConfig,
    variants: Sequence[Mode],
    alpha: float,
) -> None:
    """The stages ``train`` and ``evaluate`` of one point, unless they are finished."""
    weights = {"alpha": alpha, "beta": round(1 - alpha, 6)}
    point = config.model_copy(
        update={
            "train": config.train.model_copy(update=weights),
            "evaluate": config.evaluate.model_copy(update={"split": config.sweep.split}),
        }
    )
    model = storage.join(folder, "model")
    TRAIN.run(Call(model, point, {"dataset": dataset, "reasoning": reasoning}))
    options = {"variants": list(variants), "name": None}
    inputs = {"dataset": dataset, "model": model}
    EVALUATE.run(Call(storage.join(folder, "predictions"), point, inputs, options))


def score_point(
    dataset: str, references: str, folder: str, config: RunConfig, keys: Mapping[str, str]
) -> None:
    """The stage ``score`` of one point, unless it is finished."""
    evaluation = storage.join(folder, "predictions")
    inputs = {"dataset": dataset, "references": references, "evaluation": evaluation}
    SCORE.run(Call(evaluation, config, inputs, keys=keys))


def name_of(alpha: float) -> str:
    """Name of a point's folder."""
    return f"alpha-{alpha:g}"


def read_point(folder: str, alpha: float) -> SweepPoint:
    """The result at one alpha, with the scores of its reasoning where there are some."""
    point = storage.join(folder, name_of(alpha))
    predictions = storage.join(point, "predictions")
    trained = storage.read_json(storage.join(point, "model", storage.RECORD))["summary"]
    evaluated = EvaluationResult.load(predictions)
    is_scored = storage.exists(storage.join(predictions, ReasoningScores.FILE))
    scores = ReasoningScores.load(predictions) if is_scored else None
    return SweepPoint(
        alpha=alpha,
        beta=round(1 - alpha, 6),
        folder=name_of(alpha),
        loss_rea=trained["loss_rea"],
        loss_rec=trained["loss_rec"],
        num_users=evaluated.num_users,
        chance=evaluated.chance,
        variants={
            name: PointVariant(
                hit_ratio=found.hit_ratio,
                valid_ratio=found.valid_ratio,
                scores=means(scores.variants.get(name, {})) if scores else {},
            )
            for name, found in evaluated.variants.items()
        },
        num_references=scores.num_references if scores else 0,
        scored_with=scores.measured_with if scores else {},
    )


def means(scores: Mapping[Metric, MetricScore]) -> dict[Metric, Share]:
    """The mean over all users with a reference, of each metric that has one."""
    return {metric: score.all for metric, score in scores.items() if score.all}


def hit_ratio(point: SweepPoint, variant: str) -> float:
    """HitRatio@1 of one variant at one point."""
    return point.variants[variant].hit_ratio.value


def render_sweep(result: SweepResult, domain: str) -> bytes:
    """The page with Figure 6."""
    return render_page(
        "pipeline/sweep.html",
        sweep=result,
        panels=sweep_figure(result.points),
        metric_names=METRICS,
        printed_datasets=DATASETS,
        printed_point=FIGURE_6_POINT,
        domain=domain,
    )
