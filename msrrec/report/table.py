"""The table of systems as Markdown, with commands, seeds and versions to reproduce it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from msrrec.data.dataset import Dataset
from msrrec.report.markdown import interval, one_line, plain_p, table_line
from msrrec.report.results import ReportResult, SystemRow


@dataclass(frozen=True)
class RunFacts:
    """How one system was run.

    Attributes:
        seconds: Seconds of training and evaluation together, in the run that finished it.
        cores: Number of the machine's cores; None if unknown.
        versions: Versions of Python and of packages that affect results, and the commit.
        processor: The machine's processor; None if unknown.
    """

    seconds: float
    cores: int | None
    versions: Mapping[str, str]
    processor: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a table comes from: data, seed, and the commands that reproduce it."""

    dataset: Dataset
    seed: int
    commands: Sequence[str]


READINGS = (
    "Every system is read by one rule. Strict: the answer's first line is a candidate's title, "
    "with or without its list number; an output that does not end its reasoning is invalid. With "
    "fallback: a random candidate in place of an invalid answer, as expected. Lenient, as LLaRA "
    "counts: just one candidate is a substring of that line, or of the recommending step where the "
    "reasoning does not end; systems that score have no text to read."
)
"""How the columns of a table were read."""


def render_table(report: ReportResult, origin: Origin, runs: Mapping[str, RunFacts]) -> str:
    """The table as Markdown.

    Args:
        report: Report with rows, findings and warnings.
        origin: What all systems share.
        runs: Facts about each system's run, by name.
    """
    dataset = origin.dataset
    lines = [
        f"# Systems on {one_line(dataset.domain)}",
        "",
        "| system | HitRatio@1 | ValidRatio | with fallback | lenient HitRatio@1 "
        "| lenient ValidRatio | MRR | difference | p (Holm) |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in report.systems),
        *(_failed(name, s, dataset.path) for name, s in report.failures.items()),
        "",
        "95% intervals in brackets, not corrected. MRR is the expected value over random orders of "
        "ties. Difference: HitRatio@1 of the reference row (–) minus that of this row, on the "
        "same users; exact McNemar tests, corrected over all rows, alone decide whether a "
        "difference is reported.",
        "",
        READINGS,
        "",
        *(f"- {one_line(finding)}" for finding in report.findings),
        *(f"- Check failed: {one_line(warning)}" for warning in report.warnings),
        "",
        *(f"    {command}" for command in origin.commands),
        "",
        *_foot(origin, runs),
    ]
    return "\n".join(lines)


def _foot(origin: Origin, runs: Mapping[str, RunFacts]) -> list[str]:
    seconds = ", ".join(f"{one_line(name)} {run.seconds:,.0f}" for name, run in runs.items())
    return [
        f"Seconds, training and answers together, of the run that finished it: {seconds}; "
        f"{describe_effort(runs.values())}.",
        "",
        f"Dataset {origin.dataset.fingerprint[:16]}, seed {origin.seed}; "
        f"{describe_versions(runs.values())}.",
        "",
    ]


def describe_effort(runs: Collection[RunFacts]) -> str:
    """The minutes that some runs took, and the cores that they had."""
    minutes = sum(run.seconds for run in runs) / 60
    named = _join(run.processor for run in runs if run.processor)
    cores = f"{_join(run.cores for run in runs)} cores{f' ({one_line(named)})' if named else ''}"
    return f"{minutes:,.0f} minutes in all, with {cores}"


def describe_versions(runs: Collection[RunFacts]) -> str:
    """All versions that systems were run with; several per package if runs differ."""
    found = [run.versions for run in runs]
    names = dict.fromkeys(chain(*found))
    return ", ".join(f"{name} {_join(versions.get(name) for versions in found)}" for name in names)


def _join(values: Iterable[object]) -> str:
    """The different values in order of appearance; ``unknown`` for None."""
    texts = ("unknown" if value is None else str(value) for value in values)
    return " and ".join(dict.fromkeys(texts))


def _line(row: SystemRow) -> str:
    paired, ranking, lenient = row.paired, row.ranking, row.lenient
    cells = (
        one_line(row.label),
        interval(row.hit_ratio),
        interval(row.valid_ratio),
        interval(row.hit_ratio_fallback),
        interval(lenient.hit_ratio if lenient else None),
        interval(lenient.valid_ratio if lenient else None),
        interval(ranking.mrr if ranking else None),
        f"{paired.difference:+.4f} [{paired.low:+.3f}, {paired.high:+.3f}]" if paired else "–",
        plain_p(paired.p_adjusted) if paired else "–",
    )
    return table_line(cells)


def _failed(name: str, sentence: str, path: str) -> str:
    why = one_line(sentence.replace(path, "DATASET"))
    return f"| {one_line(name)} | failed: {why} | | | | | | | |"
