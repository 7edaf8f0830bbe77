"""Geometry of the report's plots: points in an area of 600 by 200, for inline SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.evaluation.results import Histogram, Metric
from msrrec.metrics.statistics import Share
from msrrec.page import svg_points
from msrrec.report.results import PointVariant, SweepPoint

CURVES = ("loss", "loss_rea", "loss_rec")
"""The losses of a training run that are plotted."""


@dataclass(frozen=True)
class TrainingPoint:
    """One line of a model's metrics.jsonl: the losses of ``CURVES`` that it has."""

    step: float
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Curves:
    """Training losses by step, as plotted.

    Attributes:
        lines: Points of a polyline, by loss.
        ends: The last value, by loss.
        last: The step at the right end.
        top: The loss at the upper end.
    """

    lines: Mapping[str, str]
    ends: Mapping[str, float]
    last: float
    top: float


@dataclass(frozen=True)
class Bins:
    """Histograms of perplexity as two step curves, by agreement of the sides.

    Attributes:
        ticks: Positions on the x axis and their labels.
        lines: Points of a polyline.
        counts: Number of outputs of each curve.
    """

    ticks: tuple[tuple[float, str], ...]
    lines: Mapping[str, str]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class SweepCurve:
    """The curve of one variant: points of a polyline, and whiskers as (x, low, high)."""

    line: str
    whiskers: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class SweepPanel:
    """One panel of Figure 6: a curve per variant, on an axis from ``bottom`` to ``top``.

    Attributes:
        title: What is plotted.
        note: How it was measured; empty if there is nothing to say.
        chance: Height of a random choice; None where there is none.
    """

    title: str
    note: str
    bottom: float
    top: float
    chance: float | None
    curves: Mapping[str, SweepCurve]


def axis_top(values: Sequence[float]) -> float:
    """Upper end of an axis from 0: the next multiple of 0.1, at most 1."""
    return min(1.0, math.ceil(10 * max(values) + 0.01) / 10)


def histogram(perplexity: Histogram) -> Bins | None:
    """The share of outputs in each bin; None if there are no bins."""
    edges = perplexity.edges
    if not edges:
        return None
    counts: dict[Literal["agree", "differ"], tuple[int, ...]] = {
        "agree": perplexity.agree,
        "differ": perplexity.differ,
    }
    shares = {kind: [n / max(sum(found), 1) for n in found] for kind, found in counts.items()}
    top = max(*shares["agree"], *shares["differ"])
    xs = [600 * n / (len(edges) - 1) for n in range(len(edges))]
    ticks = range(0, len(edges), max(1, (len(edges) - 1) // 6))
    return Bins(
        ticks=tuple((xs[n], f"{edges[n]:.3g}") for n in ticks),
        lines={kind: _steps(xs, values, top) for kind, values in shares.items()},
        counts={kind: sum(found) for kind, found in counts.items()},
    )


def _steps(xs: Sequence[float], values: Sequence[float], top: float) -> str:
    """Points of a step curve above the base line."""
    points = [(xs[0], 200.0)]
    for n, value in enumerate(values):
        height = 200 - 190 * value / top
        points += [(xs[n], height), (xs[n + 1], height)]
    points.append((xs[-1], 200.0))
    return svg_points(points)


def training_curves(training: Sequence[TrainingPoint]) -> Curves | None:
    """The losses of a training run, on an axis from 0; None with less than two points."""
    found = {
        name: [(point.step, point.losses[name]) for point in training if name in point.losses]
        for name in CURVES
    }
    found = {name: points for name, points in found.items() if len(points) > 1}
    if not found:
        return None
    last = max(step for points in found.values() for step, _ in points)
    top = max(loss for points in found.values() for _, loss in points) or 1.0
    lines = {
        name: svg_points([(600 * step / last, 200 - 195 * loss / top) for step, loss in points])
        for name, points in found.items()
    }
    return Curves(lines, {name: points[-1][1] for name, points in found.items()}, last, top)


_SCORES: Mapping[Metric, str] = {
    "judge_0_100": "GPTScore as a judge's mark, 0 to 100",
    "gptscore_logprob": "GPTScore as a log-probability per token",
}
"""The two readings of what the paper calls GPTScore."""


def sweep_figure(points: Sequence[SweepPoint]) -> list[SweepPanel]:
    """The panels of Figure 6: HitRatio@1 over alpha, and each GPTScore that was measured.

    Args:
        points: At least one point, by rising alpha.
    """
    return [_hit_panel(points), *(_score_panel(points, name) for name in _measured(points))]


def _measured(points: Sequence[SweepPoint]) -> list[Metric]:
    """The readings of GPTScore that every variant has at every point."""
    found = [variant.scores for point in points for variant in point.variants.values()]
    return [name for name in _SCORES if all(name in scores for scores in found)]


def _hit_panel(points: Sequence[SweepPoint]) -> SweepPanel:
    found = _by_variant(points, lambda variant: variant.hit_ratio)
    top = axis_top([share.high for curve in found.values() for _, share in curve])
    curves = {name: _curve(curve, 0.0, top) for name, curve in found.items()}
    return SweepPanel("HitRatio@1", "", 0.0, top, 200 * (1 - points[0].chance / top), curves)


def _score_panel(points: Sequence[SweepPoint], metric: Metric) -> SweepPanel:
    """A panel whose axis just holds all intervals, as these scores have no natural zero."""
    found = _by_variant(points, lambda variant: variant.scores[metric])
    shares = [share for curve in found.values() for _, share in curve]
    low, high = min(share.low for share in shares), max(share.high for share in shares)
    step = _tick_step(max(high - low, 1e-6))
    bottom, top = step * math.floor(low / step), step * math.ceil(high / step)
    top = top if top > bottom else bottom + step
    curves = {name: _curve(curve, bottom, top) for name, curve in found.items()}
    note = points[0].scored_with.get(metric, "")
    return SweepPanel(_SCORES[metric], note, bottom, top, None, curves)


def _by_variant(
    points: Sequence[SweepPoint], value: Callable[[PointVariant], Share]
) -> dict[str, list[tuple[float, Share]]]:
    """Alpha and a value at every point, by variant."""
    names = points[0].variants
    return {
        name: [(point.alpha, value(point.variants[name])) for point in points] for name in names
    }


def _curve(found: Sequence[tuple[float, Share]], bottom: float, top: float) -> SweepCurve:
    def height(value: float) -> float:
        return 200 * (top - value) / (top - bottom)

    return SweepCurve(
        line=svg_points([(600 * x, height(share.value)) for x, share in found]),
        whiskers=tuple((600 * x, height(share.low), height(share.high)) for x, share in found),
    )


@dataclass(frozen=True)
class ForestRow:
    """A difference with its interval.

    Attributes:
        group: Name above the row; empty where it belongs to the row before.
        label: Name of the row.
        value: The difference, a share; ``low`` and ``high`` are the ends of its interval.
        is_strong: Whether it is a mean over the rows that follow.
        is_shown: Whether a difference is shown.
    """

    group: str
    label: str
    value: float
    low: float
    high: float
    is_strong: bool
    is_shown: bool


@dataclass(frozen=True)
class ForestLine:
    """A row of a forest plot, as plotted: heights of its group's name and of itself."""

    row: ForestRow
    group_y: float
    y: float
    x: float
    x_low: float
    x_high: float


@dataclass(frozen=True)
class Forest:
    """A forest plot: an axis of differences below its rows.

    Attributes:
        lines: The rows from above.
        ticks: Positions on the axis, and their labels in points.
        zero: Position of no difference.
        height: Height of the rows, which begin at 0.
    """

    lines: tuple[ForestLine, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float
    height: float


FOREST_LEFT, FOREST_RIGHT = 225.0, 600.0
"""The part of a forest plot that holds the axis; labels stand left of it."""
_ROW, _GROUP = 17.0, 24.0


def forest(rows: Sequence[ForestRow]) -> Forest:
    """Differences on one axis that holds all intervals and 0.

    Args:
        rows: At least one row, in the order from above.
    """
    least, most = min(0.0, *(r.low for r in rows)), max(0.001, *(r.high for r in rows))
    step = _tick_step(most - least)
    low, high = step * math.floor(least / step), step * math.ceil(most / step)

    def place(value: float) -> float:
        return FOREST_LEFT + (FOREST_RIGHT - FOREST_LEFT) * (value - low) / (high - low)

    lines, y = [], 0.0
    for row in rows:
        group_y = y + _GROUP
        y += _ROW + (_GROUP if row.group else 0.0)
        lines.append(ForestLine(row, group_y, y, place(row.value), place(row.low), place(row.high)))
    count = round((high - low) / step)
    ticks = [low + n * step for n in range(count + 1)]
    return Forest(
        lines=tuple(lines),
        ticks=tuple(
            (place(tick), f"{100 * tick:+.3g}" if abs(tick) > step / 2 else "0") for tick in ticks
        ),
        zero=place(0.0),
        height=y + 0.5 * _ROW,
    )


def _tick_step(width: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that parts a width into at most 6."""
    power = 10.0 ** math.floor(math.log10(width / 6))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= width / 6)
