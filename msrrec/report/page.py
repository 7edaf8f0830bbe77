"""A report on any number of evaluations: one self-contained HTML page, and JSON.

``msrrec.page`` explains how pages are made and why nothing in them can run.
"""

from collections.abc import Mapping, Sequence

from msrrec import storage
from msrrec.errors import DataError
from msrrec.evaluation.consistency import changed_choices
from msrrec.page import render_page
from msrrec.report.findings import check_all, find_all
from msrrec.report.load import Evaluated, load_results, load_statistics, load_sweeps
from msrrec.report.paper import DATASETS, FIGURE_6_POINT, TABLE_1, build_tables
from msrrec.report.plots import axis_top, histogram, sweep_figure
from msrrec.report.results import ReportResult, SweepResult
from msrrec.report.rows import build_table
from msrrec.report.table import READINGS
from msrrec.report.views import (
    ANCHORS,
    METRICS,
    build_study,
    show_cases,
    show_curves,
    show_groups,
    show_slots,
)
from msrrec.stage import Summary

PAGE = "report/index.html"

_SUMMARY = {
    "label",
    "variant",
    "num_users",
    "hit_ratio",
    "valid_ratio",
    "hit_ratio_fallback",
    "lenient",
    "paired",
}
"""Fields of each row that the command prints; results.json has all of them."""


def report_folder(folder: str) -> Summary:
    """Write page and JSON into ``DIR/report`` about all evaluations and sweeps below a folder.

    Raises:
        DataError: If there is no evaluation.
    """
    report = write_report(load_results(folder), folder, sweeps=load_sweeps(folder))
    return summarize_report(report, folder)


def write_report(
    results: Sequence[Evaluated],
    folder: str,
    failures: Mapping[str, str] | None = None,
    sweeps: Sequence[SweepResult] = (),
) -> ReportResult:
    """Write page and JSON into ``DIR/report`` about given evaluations.

    Args:
        results: In the order of the table.
        folder: Folder to write into.
        failures: Reasons why systems have no result, by name.
        sweeps: Sweeps for Figure 6, from ``load_sweeps``.
    """
    report = build_report(results, storage.join(folder, PAGE), failures, sweeps)
    report.save(folder)
    return report


def summarize_report(report: ReportResult, folder: str) -> Summary:
    """The summary that the command prints about a report in ``DIR/report``."""
    return {
        "page": storage.join(folder, PAGE),
        "systems": [
            {"system": row.system.label, **row.model_dump(mode="json", include=_SUMMARY)}
            for row in report.systems
        ],
        "findings": list(report.findings),
        "warnings": list(report.warnings),
    }


def build_report(
    results: Sequence[Evaluated],
    out: str,
    failures: Mapping[str, str] | None = None,
    sweeps: Sequence[SweepResult] = (),
) -> ReportResult:
    """Write the page about results, in their order, and return its figures.

    Raises:
        DataError: If there are no results.
    """
    if not results:
        raise DataError(f"{out}: found no evaluations; expected at least one")
    changed = changed_choices([(evaluated.path, evaluated.result) for evaluated in results])
    results = [evaluated for evaluated in results if not evaluated.is_permuted] or results
    table = build_table(results)
    main, variant = table.headline.evaluated, table.headline.variant
    rows = tuple(row.shown for row in table.rows)
    findings, checks, study = find_all(table), check_all(results), build_study(main.result)
    page = render_page(
        "report/report.html",
        rows=rows,
        readings=READINGS,
        failures=failures or {},
        headline=table.headline.shown,
        main=main.result,
        scores=main.scores,
        findings=findings,
        checks=checks,
        top=axis_top([row.hit_ratio.high for row in rows]),
        slots=show_slots(variant.slots),
        printed_statistics=TABLE_1,
        statistics=load_statistics(results),
        tables=build_tables(rows),
        printed_datasets=DATASETS,
        printed_point=FIGURE_6_POINT,
        groups=show_groups(variant),
        seeds=table.seeds,
        changed=changed,
        study=study,
        cases=show_cases(main, results),
        histogram=histogram(main.result.fusion.perplexity) if main.result.fusion else None,
        curves=show_curves(results),
        sweeps=[(sweep, sweep_figure(sweep.points)) for sweep in sweeps],
        results=results,
        metric_names=METRICS,
        anchor_names=ANCHORS,
        faithfulness=[found for found in (r.faithfulness for r in results) if found],
    )
    storage.write_bytes(out, page)
    return ReportResult(
        systems=rows,
        failures=dict(failures or {}),
        findings=findings,
        warnings=tuple(f"{check.name}: {check.text}" for check in checks if not check.ok),
        seeds=table.seeds,
        changed_choices=tuple(changed),
        fusion_study=study,
        ceiling=main.result.ceiling,
    )
