"""The table of systems as Markdown, with commands, seeds and versions to reproduce it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from msrrec.data.dataset import Dataset
from msrrec.metrics.statistics import Share
from msrrec.page import format_p
from msrrec.report.results import ReportResult, SystemRow


@dataclass(frozen=True)
class RunFacts:
    """How one system was run.

    Attributes:
        seconds: Seconds of training and evaluation together, in the run that finished it.
        cores: Number of the machine's cores; None if unknown.
        versions: Versions of Python and of packages that affect results, and the commit.
    """

    seconds: float
    cores: int | None
    versions: Mapping[str, str]


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
        f"# Systems on {_cell(dataset.domain)}",
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
        *(f"- {_cell(finding)}" for finding in report.findings),
        *(f"- Check failed: {_cell(warning)}" for warning in report.warnings),
        "",
        *(f"    {command}" for command in origin.commands),
        "",
        *_foot(origin, runs),
    ]
    return "\n".join(lines)


def _foot(origin: Origin, runs: Mapping[str, RunFacts]) -> list[str]:
    minutes = sum(run.seconds for run in runs.values()) / 60
    seconds = ", ".join(f"{_cell(name)} {run.seconds:,.0f}" for name, run in runs.items())
    cores = _join(run.cores for run in runs.values())
    return [
        f"Seconds, training and answers together, of the run that finished it: {seconds}; "
        f"{minutes:,.0f} minutes in all, with {cores} cores.",
        "",
        f"Dataset {origin.dataset.fingerprint[:16]}, seed {origin.seed}; "
        f"{_versions(runs.values())}.",
        "",
    ]


def _versions(runs: Iterable[RunFacts]) -> str:
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
        _cell(row.label),
        _interval(row.hit_ratio),
        _interval(row.valid_ratio),
        _interval(row.hit_ratio_fallback),
        _interval(lenient.hit_ratio if lenient else None),
        _interval(lenient.valid_ratio if lenient else None),
        _interval(ranking.mrr if ranking else None),
        f"{paired.difference:+.4f} [{paired.low:+.3f}, {paired.high:+.3f}]" if paired else "–",
        format_p(paired.p_adjusted).removeprefix("p ").removeprefix("= ") if paired else "–",
    )
    return f"| {' | '.join(cells)} |"


def _failed(name: str, sentence: str, path: str) -> str:
    return f"| {_cell(name)} | failed: {_cell(sentence.replace(path, 'DATASET'))} | | | | | | | |"


def _interval(share: Share | None) -> str:
    return "–" if share is None else f"{share.value:.4f} [{share.low:.3f}, {share.high:.3f}]"


def _cell(text: str) -> str:
    """Text for one cell: a single line, without bars and markup."""
    cleaned = " ".join(text.split()).replace("|", "/")
    return cleaned.replace("<", "&lt;").replace(">", "&gt;")
