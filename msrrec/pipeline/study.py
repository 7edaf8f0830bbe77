"""The study of whether reasoning helps: arms, orders, seeds and datasets, to one verdict.

Datasets and reasoning are made by the usual stages, arms are systems of ``msrrec.comparison``: each
in a folder named after a hash of what decides its result, so a killed or extended study goes on.
"""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pyarrow as pa

from msrrec import log, storage
from msrrec.cluster import ray_session
from msrrec.comparison.compare import (
    Comparison,
    evaluate_system,
    prepare_command,
    read_records,
    system_folder,
)
from msrrec.comparison.registry import Run, System, find_systems
from msrrec.config import RunConfig, changed_settings, load_config
from msrrec.errors import ConfigError
from msrrec.evaluation.examples import partition_examples
from msrrec.evaluation.hits import HITS, Cell, group_hits, hits_of, read_hits
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.study import Beside, conclude
from msrrec.evaluation.study_results import Power, Reference, StudyResult
from msrrec.inference.predictions import iter_predictions, predictions_path
from msrrec.pipeline.points import (
    Place,
    Point,
    find_places,
    find_system,
    iter_points,
    share_place,
)
from msrrec.pipeline.study_costs import measure_cost
from msrrec.pipeline.study_plan import make_plan, tell_plan
from msrrec.report.study import render_study
from msrrec.report.study_table import render_study_table
from msrrec.stage import PREPARE, SYNTHESIZE, Summary

logger = logging.getLogger(__name__)

HITS_FILE, PAGE, TABLE = "hits.parquet", "index.html", "table.md"
DIRECT = "direct"
"""The reading of arms that write nothing before they answer."""
READINGS = ("full", "fused", "user", "item", DIRECT)
"""Readings of hits from elsewhere that are compared where none is named."""


@dataclass
class Progress:
    """What is finished so far.

    Attributes:
        folders: Evaluations of points.
        references: Evaluations of systems beside the arms, by dataset.
        failures: Reasons why evaluations are missing, by name.
    """

    folders: dict[Point, str] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def run_study(
    datasets: Sequence[str],
    out: str,
    config: RunConfig,
    keys: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> Summary:
    """Run what is not finished, and write hits, JSON, page and table after each seed.

    Args:
        datasets: Folders made by ``msrrec prepare``; empty for the generated worlds.
        out: Output folder.
        config: All sections that the stages read, and ``study``.
        keys: API keys by the names of their environment variables.
        overwrite: Whether to run finished evaluations again.

    Raises:
        ConfigError: If no arm gives a result with the first seed; it has the first one's reason.
        MsrRecError: If a dataset or its reasoning can't be made.
    """
    places, done = find_places(datasets, out, config), Progress()
    points, plan = list(iter_points(places, config)), make_plan(places, config)
    tell_plan(plan)
    summary: Summary = {}
    with ExitStack() as stack, log.Progress("study", len(points), "evaluations", 0.0) as progress:
        if overwrite or not plan.is_finished:
            stack.enter_context(ray_session(*config.ray.session))
        shared = {place.name: open_place(place, keys, overwrite) for place in places}
        for place in places:
            run_references(place, shared[place.name], done)
        for seed in config.study.seeds:
            for point in (p for p in points if p.seed == seed):
                run_point(point, shared[point.place.name], config, done)
                progress.advance(note=point.name)
            summary = write_study(shared, out, config, done, plan.power)
    return summary


def open_place(place: Place, keys: Mapping[str, str], overwrite: bool) -> Run:
    """What the evaluations on a dataset share, after its dataset and reasoning are made."""
    if place.is_world:
        PREPARE.run(place.preparing)
    SYNTHESIZE.run(replace(place.synthesizing, keys=keys))
    return share_place(place, keys, overwrite)


def run_references(place: Place, run: Run, done: Progress) -> None:
    """Evaluate the systems beside the arms."""
    names = place.config.study.references
    for system in find_systems(names, run) if names else []:
        folder = _evaluate(f"{place.name}/{system.name}", system, run, done)
        if folder is not None:
            done.references.setdefault(place.name, []).append(folder)


def run_point(point: Point, run: Run, config: RunConfig, done: Progress) -> None:
    """Train and evaluate one point unless it is finished."""
    system = find_system(point, run, config)
    if system is None:
        done.failures[point.name] = "has no learning rate, as this arm failed with the first seed"
        return
    folder = _evaluate(point.name, system, run, done)
    if folder is not None:
        done.folders[point] = folder


def _evaluate(name: str, system: System, run: Run, done: Progress) -> str | None:
    """The folder of a system's evaluation; None if it failed, which is recorded under the name."""
    made, folder = Comparison(), system_folder(run.out, system)
    evaluate_system(replace(system, name=name), folder, made, run.overwrite)
    done.failures |= made.failures
    return folder if made.results else None


def write_study(
    shared: Mapping[str, Run],
    out: str,
    config: RunConfig,
    done: Progress,
    power: Power | None,
) -> Summary:
    """Write hits, JSON, page and table of what is finished.

    Args:
        shared: What the evaluations of each dataset share.
        out: Folder to write.
        config: Settings of the study.
        done: What is finished.
        power: The plan; None where the arms allow no verdict.

    Raises:
        ConfigError: If nothing is; it has the first failure's reason.
    """
    if not done.folders:
        name, sentence = next(iter(done.failures.items()))
        raise ConfigError(f"no arm gave a result; the first, {name}: {sentence}")
    path = storage.join(out, HITS_FILE)
    tables = [table for point in done.folders for table in _tables(point, shared, config, done)]
    storage.write_table(path, pa.concat_tables(tables).combine_chunks())
    beside = {name: _beside(name, config, done) for name in shared}
    hits = group_hits(read_hits([path]))
    result = conclude(hits, (config.study.reading, DIRECT), power, beside, done.failures)
    runs = read_records({point.name: folder for point, folder in done.folders.items()})
    fingerprints = {name: run.dataset.fingerprint for name, run in shared.items()}
    commands = [shlex.join(command) for command in _commands(shared, done, config)]
    text = render_study_table(result, commands, list(runs.values()), fingerprints)
    return save_study(result, out, text)


def save_study(result: StudyResult, out: str, text: str) -> Summary:
    """Write JSON, page and the table's text; the figures that the command prints."""
    page, table = storage.join(out, PAGE), storage.join(out, TABLE)
    result.save(out)
    storage.write_bytes(table, text.encode("utf-8", errors="replace"))
    for found in result.datasets:
        logger.info("study: %s", found.verdict)
    storage.write_bytes(page, render_study(result))
    return {
        "verdict": result.verdict,
        "verdicts": [found.verdict for found in result.datasets],
        "power": result.power.sentence() if result.power else None,
        "page": page,
        "table": table,
        "failures": result.failures,
    }


def tell_hits(paths: Sequence[str], out: str, readings: Sequence[str]) -> Summary:
    """The verdict of hits from elsewhere, with JSON, page and table.

    Args:
        paths: Files of hits.
        out: Folder to write.
        readings: The readings to compare, in order of preference; empty for the usual ones.

    Raises:
        DataError: If a file is no table of hits, or its arms can't be compared.
    """
    hits = group_hits(read_hits(paths))
    given = [word for name in readings for word in ("--reading", name)]
    command = ["msrrec", "study", *["--hits", "FILE"] * len(paths), "--out", "OUT", *given]
    result = conclude(hits, tuple(readings) or READINGS)
    return save_study(result, out, render_study_table(result, [shlex.join(command)]))


def _commands(shared: Mapping[str, Run], done: Progress, config: RunConfig) -> Iterator[list[str]]:
    """The commands of prepared datasets, and of the study, with settings that are no defaults."""
    given = []
    for place in dict.fromkeys(point.place for point in done.folders):
        if not place.is_world:
            given += ["--dataset", place.name]
            yield prepare_command(shared[place.name].dataset, place.name)
    sections = [name for name in RunConfig.model_fields if name not in ("ray", "serve")]
    changed = changed_settings(config, load_config("study"), sections)
    yield ["msrrec", "study", *given, "--out", "OUT", *changed]


def _tables(
    point: Point, shared: Mapping[str, Run], config: RunConfig, done: Progress
) -> Iterator[pa.Table]:
    """The hits of every reading of a point, in parts."""
    folder, dataset = done.folders[point], shared[point.place.name].dataset
    examples = partition_examples(dataset, config.evaluate)
    for variant in EvaluationResult.load(folder).variants:
        path = predictions_path(folder, variant)
        cell = Cell(point.place.name, point.arm, point.order, variant)
        for part, found in zip(examples.read(), iter_predictions(path, examples), strict=True):
            rows = list(hits_of(cell, point.seed, part, found))
            yield pa.Table.from_pylist(rows, schema=HITS)


def _beside(name: str, config: RunConfig, done: Progress) -> Beside:
    """Costs of the arms, systems beside them, and the ceiling, of one dataset."""
    groups: dict[tuple[str, str], list[EvaluationResult]] = {}
    for point, folder in done.folders.items():
        if point.place.name == name:
            found = EvaluationResult.load(folder)
            groups.setdefault((point.arm, point.order), []).append(found)
    every = [result for results in groups.values() for result in results]
    return Beside(
        costs={key: measure_cost(results) for key, results in groups.items()},
        references=tuple(map(_refer, done.references.get(name, ()))),
        ceiling=next((result.ceiling for result in every if result.ceiling), None),
    )


def _refer(folder: str) -> Reference:
    result = EvaluationResult.load(folder)
    shown = list(result.variants.values())[-1]
    return Reference(
        label=result.system.label, hit_ratio=shown.hit_ratio, valid_ratio=shown.valid_ratio
    )
