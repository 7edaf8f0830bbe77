"""The page of a study: verdict, contrasts with intervals, arms, and what was run."""

from msrrec.evaluation.study_results import IN_WORDS, Contrast, StudyResult, name_order
from msrrec.page import render_page
from msrrec.report.plots import Forest, ForestRow, forest


def render_study(result: StudyResult) -> bytes:
    """The page of a study."""
    return render_page(
        "report/study.html",
        study=result,
        figure=draw_contrasts(result),
        words=IN_WORDS,
        name_order=name_order,
    )


def draw_contrasts(result: StudyResult) -> Forest | None:
    """The primary contrasts by dataset and order; None without any."""
    rows = [
        ForestRow(
            group=dataset.name if n == 0 else "",
            label=name_contrast(contrast),
            value=contrast.difference,
            low=contrast.low,
            high=contrast.high,
            is_strong=contrast.order is None,
            is_shown=contrast.is_shown,
        )
        for dataset in result.datasets
        for n, contrast in enumerate(c for c in dataset.contrasts if c.is_primary)
    ]
    return forest(rows) if rows else None


def name_contrast(found: Contrast) -> str:
    """A contrast such as ``chain − none, candidates first``."""
    order = f", {name_order(found.order)}" if found.order else ""
    return f"{found.first} − {found.second}{order}"
