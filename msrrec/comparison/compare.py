"""Any list of systems on one dataset: each evaluated once, then one table of all.

A system's folder is named after the hash of all that decides its result, so an unchanged system is
never run again and a changed one runs alone. A system that fails is told in the table and leaves
the rest.
"""

import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

from msrrec import log, storage
from msrrec.comparison.registry import Run, System, find_systems
from msrrec.config import RunConfig, changed_settings
from msrrec.errors import ConfigError, MsrRecError
from msrrec.report.page import load_result, write_report
from msrrec.stage import Summary, is_finished, run_once

logger = logging.getLogger(__name__)

TABLE = "report/table.md"
SYSTEMS = "systems"


@dataclass
class Comparison:
    """What came of the systems so far: folders of results, and sentences of failures, by name."""

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
        names: Systems in the order of the table. The others are held against the last fused one,
            or else the last.
        run: What they all share.
        session: Opens Ray; entered only for a system that needs it and has no result.
        overwrite: Evaluate again what is finished.

    Raises:
        ConfigError: If a name is unknown, doubled, or there is none.
        MsrRecError: If no system gives a result: the first one's failure.
    """
    out = run.out
    run = replace(run, overwrite=overwrite)
    systems = find_systems(names, run)
    done = Comparison()
    with ExitStack() as stack, log.Progress("compare", len(systems), "systems", 0.0) as progress:
        opened = False
        for system in systems:
            folder = _folder(out, system)
            is_new = overwrite or not is_finished(folder)
            if is_new and system.needs_ray and not opened:
                stack.enter_context(session())
                opened = True
            _evaluate(system, folder, done, overwrite)
            progress.advance(note=system.name)
    if not done.results:
        name, sentence = next(iter(done.failures.items()))
        raise ConfigError(f"no system gave a result; the first, {name}: {sentence}")
    results = [load_result(folder) for folder in done.results.values()]
    summary = write_report(results, out, done.failures)
    report = storage.read_json(storage.join(out, "report/results.json"))
    text = render_table(report, names, run, read_records(done.results))
    storage.write_bytes(storage.join(out, TABLE), text.encode("utf-8", errors="replace"))
    return {"table": storage.join(out, TABLE), **summary, "failures": done.failures}


def _folder(out: str, system: System) -> str:
    """Where a system's result lies: its name, and the hash of what the result follows from."""
    parts = json.dumps(asdict(system.identity), sort_keys=True)
    digest = hashlib.sha256(parts.encode()).hexdigest()[:12]
    slug = "".join(c if c.isalnum() or c in "-._" else "-" for c in system.name.lower())
    return storage.join(out, SYSTEMS, f"{slug}-{digest}")


def _evaluate(system: System, folder: str, done: Comparison, overwrite: bool) -> None:
    """Run one system, or take what it found before; its failure is kept and not raised."""
    logger.info("compare: %s", system.name)
    try:
        run_once(folder, system.identity, lambda: system.evaluate(folder), overwrite=overwrite)
    except Exception as error:  # whatever one system meets, the others go on
        lines = str(error).strip().splitlines() or [type(error).__name__]
        unforeseen = not isinstance(error, MsrRecError)
        logger.error("compare: %s failed: %s", system.name, lines[0], exc_info=unforeseen)
        done.failures[system.name] = lines[0]
    else:
        done.results[system.name] = folder


def read_records(results: Mapping[str, str]) -> dict[str, Summary]:
    """What each system's folder says of its run: seconds, cores, versions."""
    return {
        name: storage.read_json(storage.join(folder, storage.RECORD))
        for name, folder in results.items()
    }


def render_table(
    report: Mapping[str, Any], names: Sequence[str], run: Run, records: Mapping[str, Summary]
) -> str:
    """The table as Markdown, with what reproduces it: commands, seeds and versions.

    Args:
        report: As ``results.json`` holds it.
        names: Of ``--systems``.
        run: What all systems shared; settings that differ from the defaults are in the commands.
        records: Of each system.
    """
    rows, dataset = report["systems"], run.dataset
    minutes = sum(record["seconds"] for record in records.values()) / 60
    lines = [
        f"# Systems on {_cell(dataset.domain)}",
        "",
        "| system | HitRatio@1 | ValidRatio | MRR | difference | p (Holm) |",
        "|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        *(_failed(name, s, dataset.path) for name, s in report["failures"].items()),
        "",
        "95% intervals in brackets. MRR counts ties against the target. Difference: the row that "
        "the others are held against, minus this one, on the same users; exact McNemar tests, "
        "corrected over all rows.",
        "",
        *(f"- {_cell(finding)}" for finding in report["findings"]),
        *(f"- Check failed: {_cell(warning)}" for warning in report["warnings"]),
        "",
        *(f"    {command}" for command in _commands(names, run)),
        "",
        "Seconds, training and answers together, of the run that finished it: "
        + ", ".join(f"{_cell(n)} {record['seconds']:,.0f}" for n, record in records.items())
        + f"; {minutes:,.0f} minutes in all, with {_values(records.values(), 'cores')} cores.",
        "",
        f"Dataset {dataset.fingerprint[:16]}, seed {run.config.inference.seed}; "
        f"{_versions(records.values())}.",
        "",
    ]
    return "\n".join(lines)


def _versions(records: Iterable[Summary]) -> str:
    """Every version that a system was run with; several where they were run at different times."""
    found = [record["versions"] for record in records]
    return ", ".join(f"{name} {_values(found, name)}" for name in dict.fromkeys(chain(*found)))


def _values(records: Iterable[Mapping[str, Any]], name: str) -> str:
    return " and ".join(dict.fromkeys(str(record.get(name, "unknown")) for record in records))


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
        _p_value(paired["p_adjusted"]) if paired else "–",
    )
    return f"| {' | '.join(cells)} |"


def _failed(name: str, sentence: str, path: str) -> str:
    return f"| {_cell(name)} | failed: {_cell(sentence.replace(path, 'DATASET'))} | | | | |"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _interval(share: Mapping[str, float] | None) -> str:
    if share is None:
        return "–"
    return f"{share['value']:.4f} [{share['low']:.3f}, {share['high']:.3f}]"


def _cell(text: str) -> str:
    """Text in one cell: one line, no bars, no markup."""
    cleaned = " ".join(text.split()).replace("|", "/")
    return cleaned.replace("<", "&lt;").replace(">", "&gt;")


def _commands(names: Sequence[str], run: Run) -> list[str]:
    """The command lines that made dataset, reasoning and table."""
    manifest, defaults = run.dataset.manifest, RunConfig()
    prepare = ["msrrec", "prepare", "--source", str(manifest.get("source")), "--out", "DATASET"]
    if manifest.get("inputs"):
        prepare += ["--interactions", "FILE", "--items", "FILE"]
    prepared = RunConfig.model_validate({"data": manifest.get("config", {})})
    commands = [[*prepare, *changed_settings(prepared, defaults, ["data"])]]
    compare = ["msrrec", "compare", "--dataset", "DATASET", "--out", "OUT"]
    if run.reasoning:
        record = storage.join(run.reasoning, storage.RECORD)
        made = storage.read_json(record)["changed"] if storage.exists(record) else []
        commands.append(
            ["msrrec", "synthesize", "--dataset", "DATASET", "--out", "REASONING", *made]
        )
        compare += ["--reasoning", "REASONING"]
    compare += ["--systems", ",".join(names)]
    sections = [name for name in RunConfig.model_fields if name not in ("data", "ray", "serve")]
    commands.append([*compare, *changed_settings(run.config, defaults, sections)])
    return [shlex.join(command) for command in commands]
