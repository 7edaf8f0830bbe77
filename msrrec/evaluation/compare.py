"""Any list of systems on one dataset: each evaluated once, then one table of all.

A system's folder is named after the hash of all that decides its result, so an unchanged system is
never run again and a changed one runs alone. A system that fails is told in the table and leaves
the rest.
"""

import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

from msrrec import log, storage
from msrrec.baselines import BASELINES
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, MsrRecError
from msrrec.evaluation.evaluate import evaluate_baseline
from msrrec.evaluation.report import load_result, write_report
from msrrec.stages import Summary, run_stage, versions

logger = logging.getLogger(__name__)

TABLE = "report/table.md"
SYSTEMS = "systems"


@dataclass(frozen=True)
class System:
    """One row of the table that is to be.

    Attributes:
        name: What the table calls it.
        settings: All that decides its result beside the dataset; JSON values only.
        evaluate: Evaluates it into a folder.
        needs_ray: Whether Ray must be running for that.
    """

    name: str
    settings: Mapping[str, Any]
    evaluate: Callable[[str], Summary]
    needs_ray: bool = False


@dataclass
class Comparison:
    """What came of the systems so far: folders of results, and sentences of failures, by name."""

    results: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def compare(
    dataset: Dataset,
    names: Sequence[str],
    out: str,
    config: RunConfig,
    session: Callable[[], AbstractContextManager[None]],
    *,
    overwrite: bool = False,
) -> Summary:
    """Evaluate what is not evaluated yet, and write page, JSON and Markdown table of all.

    Args:
        dataset: From ``msrrec prepare``.
        names: Systems in the order of the table; the last is what the others are held against.
        out: Folder of everything.
        config: Its sections are each used by the systems that need them.
        session: Opens Ray; entered only for a system that needs it and has no result.
        overwrite: Evaluate again what is finished.

    Raises:
        ConfigError: If a name is unknown, doubled, or there is none.
        MsrRecError: If no system gives a result: the first one's failure.
    """
    systems = find_systems(names, dataset, config)
    done = Comparison()
    with ExitStack() as stack, log.Progress("compare", len(systems), "systems", 0.0) as progress:
        opened = False
        for system in systems:
            folder = _folder(out, system, dataset)
            is_new = overwrite or not storage.exists(storage.join(folder, storage.RECORD))
            if is_new and system.needs_ray and not opened:
                stack.enter_context(session())
                opened = True
            _evaluate(system, folder, done, dataset, overwrite)
            progress.advance(note=system.name)
    if not done.results:
        name, sentence = next(iter(done.failures.items()))
        raise ConfigError(f"no system gave a result; the first, {name}: {sentence}")
    results = [load_result(folder) for folder in done.results.values()]
    summary = write_report(results, out, done.failures)
    report = storage.read_json(storage.join(out, "report/results.json"))
    text = render_table(report, dataset, names, config)
    storage.write_bytes(storage.join(out, TABLE), text.encode("utf-8", errors="replace"))
    return {"table": storage.join(out, TABLE), **summary, "failures": done.failures}


def find_systems(names: Sequence[str], dataset: Dataset, config: RunConfig) -> list[System]:
    """The systems of some names.

    Raises:
        ConfigError: If a name is unknown, doubled, or there is none.
    """
    systems = [_find(name, dataset, config) for name in names]
    found = [system.name for system in systems]
    doubled = sorted({name for name in found if found.count(name) > 1})
    if doubled or not systems:
        what = f"found {doubled[0]!r} twice" if doubled else "found none"
        raise ConfigError(f"--systems: {what}; expected names such as popularity,sasrec, each once")
    return systems


def _find(name: str, dataset: Dataset, config: RunConfig) -> System:
    if name in BASELINES:
        return _baseline(name, dataset, config)
    raise ConfigError(f"--systems: {name!r} is unknown; expected some of {', '.join(BASELINES)}")


def _baseline(name: str, dataset: Dataset, config: RunConfig) -> System:
    entry = BASELINES[name]
    settings = {
        "system": name,
        "code": entry.code_hash(),
        "seed": config.inference.seed,
        "evaluate": _users(config),
        "baselines": config.baselines.model_dump(mode="json", include=set(entry.settings)),
    }
    return System(
        name,
        settings,
        lambda out: evaluate_baseline(dataset, name, out, config),
        needs_ray=entry.needs_ray,
    )


def _users(config: RunConfig) -> dict[str, Any]:
    """Who is evaluated, and on which order of candidates."""
    return config.evaluate.model_dump(include={"split", "num_users", "permutation"})


def _folder(out: str, system: System, dataset: Dataset) -> str:
    """Where a system's result lies: its name, and the hash of system, config and data."""
    parts = json.dumps([dict(system.settings), dataset.fingerprint], sort_keys=True)
    digest = hashlib.sha256(parts.encode()).hexdigest()[:12]
    slug = "".join(c if c.isalnum() or c in "-._" else "-" for c in system.name.lower())
    return storage.join(out, SYSTEMS, f"{slug}-{digest}")


def _evaluate(
    system: System, folder: str, done: Comparison, dataset: Dataset, overwrite: bool
) -> None:
    """Run one system, or take what it found before; its failure is kept and not raised."""
    settings = {**system.settings, "dataset_fingerprint": dataset.fingerprint}
    logger.info("compare: %s", system.name)
    try:
        run_stage("compare", folder, settings, lambda: system.evaluate(folder), overwrite=overwrite)
    except _failures() as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        logger.error("compare: %s failed: %s", system.name, lines[0])
        done.failures[system.name] = lines[0]
    else:
        done.results[system.name] = folder


def _failures() -> tuple[type[Exception], ...]:
    """What ends one system and no more: bad settings, lost workers, engines, memory, disk."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    return MsrRecError, RayError, TrainingFailedError, RuntimeError, MemoryError, OSError


def render_table(
    report: Mapping[str, Any], dataset: Dataset, names: Sequence[str], config: RunConfig
) -> str:
    """The table as Markdown, with what reproduces it: command, seeds and versions.

    Args:
        report: As ``results.json`` holds it.
        dataset: The one compared on.
        names: Of ``--systems``.
        config: Of the run; settings that differ from the defaults are in the command.
    """
    rows = report["systems"]
    lines = [
        f"# Systems on {_cell(dataset.domain)}",
        "",
        "| system | HitRatio@1 | ValidRatio | MRR | difference | p (Holm) |",
        "|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        *(f"| {_cell(n)} | failed: {_cell(s)} | | | | |" for n, s in report["failures"].items()),
        "",
        "95% intervals in brackets. Difference: the row that the others are held against, minus "
        "this one, on the same users; exact McNemar tests, corrected over all rows.",
        "",
        *(f"- {_cell(finding)}" for finding in report["findings"]),
        *(f"- Check failed: {_cell(warning)}" for warning in report["warnings"]),
        "",
        f"    {_prepare_command(dataset)}",
        f"    {_command(names, config)}",
        "",
        f"Dataset {dataset.fingerprint[:16]}, seed {config.inference.seed}; "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    paired, ranking = row["paired"], row["ranking"]
    cells = (
        _cell(row["label"]),
        _interval(row["hit_ratio"]),
        _interval(row["valid_ratio"]),
        _interval(ranking["mrr"]) if ranking else "–",
        f"{paired['difference']:+.4f} [{paired['low']:+.3f}, {paired['high']:+.3f}]"
        if paired
        else "–",
        f"{paired['p_adjusted']:.4f}" if paired else "–",
    )
    return f"| {' | '.join(cells)} |"


def _interval(share: Mapping[str, float] | None) -> str:
    if share is None:
        return "–"
    return f"{share['value']:.4f} [{share['low']:.3f}, {share['high']:.3f}]"


def _cell(text: str) -> str:
    """Text in one cell: one line, no bars, no markup."""
    cleaned = " ".join(text.split()).replace("|", "/")
    return cleaned.replace("<", "&lt;").replace(">", "&gt;")


def _command(names: Sequence[str], config: RunConfig) -> str:
    systems = ["--systems", ",".join(names)]
    words = ["msrrec", "compare", "--dataset", "DATASET", "--out", "OUT", *systems]
    return shlex.join([*words, *_overrides(config.model_dump(mode="json"))])


def _prepare_command(dataset: Dataset) -> str:
    """The command line that made the dataset."""
    manifest = dataset.manifest
    words = ["msrrec", "prepare", "--source", str(manifest.get("source")), "--out", "DATASET"]
    if manifest.get("inputs"):
        words += ["--interactions", "FILE", "--items", "FILE"]
    return shlex.join([*words, *_overrides({"data": manifest.get("config", {})})])


def _overrides(chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every setting that is not the default, as the command line takes it."""
    defaults = RunConfig().model_dump(mode="json")
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section, values in chosen.items()
        for key, value in values.items()
        if value != defaults[section].get(key)
    ]
