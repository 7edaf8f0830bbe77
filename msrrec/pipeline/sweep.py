"""The paper's Figure 6: training and evaluation at several weights of the two losses.

Ray Tune runs the points, each with the library's own training and evaluation. Every point's folder
holds finished stages like any other, so a killed sweep goes on, and a wider one adds points.
"""

import contextlib
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msrrec import log, storage
from msrrec.cluster import quiet_ray_data
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError, MsrRecError
from msrrec.evaluation.evaluate import METRICS, SWEEP
from msrrec.inference.recommender import Mode
from msrrec.page import render_page
from msrrec.report.plots import sweep_figure
from msrrec.stage import EVALUATE, TRAIN, Call, Summary

_TUNE = "tune"


def sweep(
    dataset: str, reasoning: str, out: str, config: RunConfig, variants: Sequence[Mode]
) -> Summary:
    """Train and evaluate at every alpha, then write ``sweep.json`` and ``index.html``.

    Args:
        dataset: From ``msrrec prepare``.
        reasoning: From ``msrrec synthesize``.
        out: A folder that all nodes share.
        config: Sections ``sweep``, ``train``, ``model``, ``inference`` and ``evaluate``.
        variants: What is evaluated.

    Raises:
        MsrRecError: What a point raised.
    """
    if "://" in out:
        raise DataError(f"{out}: found a URI; expected a folder that all nodes share")
    folder = Path(out).expanduser().absolute()
    alphas = sorted(config.sweep.alphas)

    def run(alpha: float) -> None:
        run_point(dataset, reasoning, str(folder / name_of(alpha)), config, variants, alpha)

    run_points(run, alphas, folder, config.sweep.concurrency)
    points = [read_point(folder, alpha) for alpha in alphas]
    best = {name: max(points, key=lambda point: hit_ratio(point, name)) for name in variants}
    result = {
        "split": config.sweep.split,
        "points": points,
        "best_alpha": {name: point["alpha"] for name, point in best.items()},
    }
    page = str(folder / "index.html")
    storage.write_json(str(folder / SWEEP), result)
    storage.write_bytes(page, render_sweep(result, Dataset.load(dataset).domain))
    ratios = {name: round(hit_ratio(point, name), 4) for name, point in best.items()}
    return {"out": out, "page": page, "best_alpha": result["best_alpha"], "hit_ratio": ratios}


def run_points(
    run: Callable[[float], None], alphas: Sequence[float], folder: Path, concurrency: int
) -> None:
    """Run every point on Ray Tune; the first that fails ends the sweep.

    A point holds no resources itself, as its workers and engines ask for theirs: Ray Train and Ray
    Data do so beside the trial's placement group, which plain tasks could not leave. Tune's records
    are thrown away: what is finished is known by its stages.

    Raises:
        MsrRecError: What a point raised.
    """
    from ray import tune  # seconds to import

    def run_trial(settings: dict[str, float]) -> dict[str, Any]:
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
            storage_path=str(folder),
            failure_config=tune.FailureConfig(fail_fast=True),
            verbose=0,
        ),
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Tune names folders that won't be there
            results = tuner.fit()
    finally:
        shutil.rmtree(folder / _TUNE, ignore_errors=True)
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


def name_of(alpha: float) -> str:
    """The folder of a point."""
    return f"alpha-{alpha:g}"


def read_point(folder: Path, alpha: float) -> dict[str, Any]:
    """What came out at one alpha."""
    point = str(folder / name_of(alpha))
    trained = storage.read_json(storage.join(point, "model", storage.RECORD))["summary"]
    evaluated = storage.read_json(storage.join(point, "predictions", METRICS))
    return {
        "alpha": alpha,
        "beta": round(1 - alpha, 6),
        "folder": name_of(alpha),
        "loss_rea": trained["loss_rea"],
        "loss_rec": trained["loss_rec"],
        "num_users": evaluated["num_users"],
        "chance": evaluated["chance"],
        "variants": {
            name: {key: found[key] for key in ("hit_ratio", "valid_ratio")}
            for name, found in evaluated["variants"].items()
        },
    }


def hit_ratio(point: Mapping[str, Any], variant: str) -> float:
    """Of one variant at one point."""
    return float(point["variants"][variant]["hit_ratio"]["value"])


def render_sweep(result: Mapping[str, Any], domain: str) -> bytes:
    """The page with Figure 6."""
    figure = sweep_figure(result["points"])
    return render_page("pipeline/sweep.html", sweep={**result, "figure": figure}, domain=domain)
