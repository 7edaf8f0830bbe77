"""Evaluating a list of systems on one dataset, each once, with one table of all.

A system's folder is named after a hash of everything that decides its result, so unchanged systems
are not run again. If a system fails, the table shows it and the others continue.
"""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

from msrrec import log, storage
from msrrec.comparison.registry import Run, System, find_systems
from msrrec.config import RunConfig, changed_settings
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, MsrRecError, first_line
from msrrec.report.load import load_result
from msrrec.report.page import summarize_report, write_report
from msrrec.report.table import Origin, RunFacts, render_table
from msrrec.stage import Summary, is_finished, run_once

logger = logging.getLogger(__name__)

TABLE = "report/table.md"
SYSTEMS = "systems"


@dataclass
class Comparison:
    """The progress so far: folders of results and reasons of failures, by system."""

    results: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def compare(
    names: Sequence[str],
    run: Run,
    session: Callable[[], AbstractContextManager[None]],
    *,
    overwrite: bool = False,
) -> Summary:
    """Evaluate what is not evaluated yet, and write page, JSON and Markdown table of all.

    Args:
        names: Systems in the order of the table. The reference row is the last fused one, or else
            the last.
        run: What all systems share.
        session: Opens Ray; used only if a system without a result needs it.
        overwrite: Whether to evaluate finished systems again.

    Raises:
        ConfigError: If a name is unknown or repeated, or there are no names.
        MsrRecError: If no system gives a result; it has the first one's reason.
    """
    out = run.out
    run = replace(run, overwrite=overwrite, trained=set())
    systems = find_systems(names, run)
    done = Comparison()
    with ExitStack() as stack, log.Progress("compare", len(systems), "systems", 0.0) as progress:
        opened = False
        for system in systems:
            folder = system_folder(out, system)
            is_new = overwrite or not is_finished(folder)
            if is_new and system.needs_ray and not opened:
                stack.enter_context(session())
                opened = True
            evaluate_system(system, folder, done, overwrite)
            progress.advance(note=system.name)
    if not done.results:
        name, sentence = next(iter(done.failures.items()))
        raise ConfigError(f"no system gave a result; the first, {name}: {sentence}")
    results = [load_result(folder) for folder in done.results.values()]
    report = write_report(results, out, done.failures)
    made = Origin(run.dataset, run.config.inference.seed, _commands(names, run))
    text = render_table(report, made, read_records(done.results))
    storage.write_bytes(storage.join(out, TABLE), text.encode("utf-8", errors="replace"))
    summary = summarize_report(report, out)
    return {"table": storage.join(out, TABLE), **summary, "failures": done.failures}


def system_folder(out: str, system: System) -> str:
    """Folder of a system's result: its name, and a hash of what decides the result."""
    slug = "".join(c if c.isalnum() or c in "-._" else "-" for c in system.name.lower())
    return storage.join(out, SYSTEMS, f"{slug}-{system.identity.digest}")


def evaluate_system(system: System, folder: str, done: Comparison, overwrite: bool) -> None:
    """Run one system or reuse its result; a failure is recorded and not raised."""
    logger.info("compare: %s", system.name)
    try:
        run_once(
            folder,
            system.identity,
            lambda: system.evaluate(folder),
            overwrite=overwrite,
            keeps=True,
        )
    except Exception as error:  # the other systems continue after any error
        unforeseen = not isinstance(error, MsrRecError)
        logger.error("compare: %s failed: %s", system.name, first_line(error), exc_info=unforeseen)
        done.failures[system.name] = first_line(error)
    else:
        done.results[system.name] = folder


def read_records(results: Mapping[str, str]) -> dict[str, RunFacts]:
    """The run records of systems, by name."""
    records = {
        name: storage.read_json(storage.join(folder, storage.RECORD))
        for name, folder in results.items()
    }
    return {
        name: RunFacts(
            record["seconds"], record.get("cores"), record["versions"], record.get("processor")
        )
        for name, record in records.items()
    }


def prepare_command(dataset: Dataset, out: str) -> list[str]:
    """The command that makes a dataset, with ``FILE`` in place of the files it was made from.

    Args:
        dataset: The dataset.
        out: Name of its folder in the command.
    """
    manifest = dataset.manifest
    prepare = ["msrrec", "prepare", "--source", str(manifest.get("source")), "--out", out]
    if manifest.get("inputs"):
        prepare += ["--interactions", "FILE", "--items", "FILE"]
    prepared = RunConfig.model_validate({"data": manifest.get("config", {})})
    return [*prepare, *changed_settings(prepared, RunConfig(), ["data"])]


def _without_path(name: str) -> str:
    """A system's name, with ``FILE`` in place of a path that its owner alone knows."""
    label, is_file, _ = name.partition("=")
    return f"{label}=FILE" if is_file else name


def _commands(names: Sequence[str], run: Run) -> list[str]:
    """The commands that made dataset, reasoning and table."""
    defaults = RunConfig()
    commands = [prepare_command(run.dataset, "DATASET")]
    compare = ["msrrec", "compare", "--dataset", "DATASET", "--out", "OUT"]
    if run.reasoning:
        record = storage.join(run.reasoning, storage.RECORD)
        made = storage.read_json(record)["changed"] if storage.exists(record) else []
        commands.append(
            ["msrrec", "synthesize", "--dataset", "DATASET", "--out", "REASONING", *made]
        )
        compare += ["--reasoning", "REASONING"]
    compare += ["--systems", ",".join(map(_without_path, names))]
    sections = [name for name in RunConfig.model_fields if name not in ("data", "ray", "serve")]
    commands.append([*compare, *changed_settings(run.config, defaults, sections)])
    return [shlex.join(command) for command in commands]
