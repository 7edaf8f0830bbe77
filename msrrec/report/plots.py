"""The geometry of the report's figures: points on planes of 600 by 200, for inline SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msrrec.page import svg_points

_CURVES = ("loss", "loss_rea", "loss_rec")


def axis_top(values: Sequence[float]) -> float:
    """The end of an axis from 0: the next tenth, at most 1."""
    return min(1.0, math.ceil(10 * max(values) + 0.01) / 10)


def histogram(perplexity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Two step curves on a 600 by 200 plane: the share of outputs in each bin."""
    if not perplexity or not perplexity["edges"]:
        return None
    edges = perplexity["edges"]
    shares = {
        kind: [count / max(sum(perplexity[kind]), 1) for count in perplexity[kind]]
        for kind in ("agree", "differ")
    }
    top = max(*shares["agree"], *shares["differ"])
    xs = [600 * n / (len(edges) - 1) for n in range(len(edges))]
    ticks = range(0, len(edges), max(1, (len(edges) - 1) // 6))
    return {
        "ticks": [(xs[n], f"{edges[n]:.3g}") for n in ticks],
        "lines": {kind: _steps(xs, values, top) for kind, values in shares.items()},
        "counts": {kind: sum(perplexity[kind]) for kind in shares},
    }


def _steps(xs: Sequence[float], values: Sequence[float], top: float) -> str:
    """Points of a step curve above the base line."""
    points = [(xs[0], 200.0)]
    for n, value in enumerate(values):
        height = 200 - 190 * value / top
        points += [(xs[n], height), (xs[n + 1], height)]
    points.append((xs[-1], 200.0))
    return svg_points(points)


def training_curve(training: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The losses of a training run on a 600 by 200 plane from 0 to the highest of them."""
    found = {
        name: [
            (float(line["step"]), float(line[name]))
            for line in training
            if "step" in line and isinstance(line.get(name), int | float)
        ]
        for name in _CURVES
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
    ends = {name: points[-1][1] for name, points in found.items()}
    return {"lines": lines, "ends": ends, "last": last, "top": top}


def sweep_figure(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """HitRatio@1 and its interval over alpha, a curve a variant, on a 600 by 200 plane.

    Args:
        points: As ``sweep.json`` holds them, by rising alpha.
    """
    curves = {
        name: [(point["alpha"], point["variants"][name]["hit_ratio"]) for point in points]
        for name in points[0]["variants"]
    }
    top = axis_top([share["high"] for points in curves.values() for _, share in points])
    return {
        "top": top,
        "curves": {
            name: {
                "line": svg_points([(600 * x, 200 * (1 - y["value"] / top)) for x, y in points]),
                "whiskers": [
                    (600 * x, 200 * (1 - y["low"] / top), 200 * (1 - y["high"] / top))
                    for x, y in points
                ],
            }
            for name, points in curves.items()
        },
    }
