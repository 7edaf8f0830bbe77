"""One self-contained HTML page, and JSON, from any number of evaluations.

How pages are made, and why nothing in them can run, is in ``page``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pyarrow import fs

from msrrec import storage
from msrrec.errors import DataError
from msrrec.evaluation.evaluate import KIND, METRICS
from msrrec.evaluation.ranking import unpack_bits
from msrrec.evaluation.statistics import mcnemar
from msrrec.page import percent, render_page, svg_points

PAGE = "report/index.html"
RESULTS = "report/results.json"

SIGNIFICANT = 0.05
VALID_BAR = 0.95
"""A lower ValidRatio is remarked on."""

_KINDS = ("baseline", "base", "trained")
_CURVES = ("loss", "loss_rea", "loss_rec")


@dataclass(frozen=True)
class SystemResult:
    """One evaluated system, as ``report/metrics.json`` holds it.

    Attributes:
        path: The folder of the evaluation.
        metrics: All of metrics.json.
        training: The lines of the model's metrics.jsonl, where it has one.
    """

    path: str
    metrics: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def system(self) -> str:
        """What tables call it."""
        return str(self.metrics["system"])

    @property
    def users(self) -> tuple[str, str, int]:
        """What two results must share to be compared user by user."""
        metrics = self.metrics
        return metrics["dataset"]["fingerprint"], metrics["split"], metrics["num_users"]


def report_folder(folder: str) -> dict[str, Any]:
    """Page and JSON in ``DIR/report`` from every evaluation below a folder.

    Raises:
        DataError: If there is none.
    """
    page = storage.join(folder, PAGE)
    report = build_report(load_results(folder), page)
    storage.write_json(storage.join(folder, RESULTS), report)
    return {"page": page, **report}


def load_results(folder: str) -> list[SystemResult]:
    """Every evaluation below a folder: baselines, base models, trained ones.

    Raises:
        DataError: If there is none.
    """
    filesystem, inner = storage.resolve(folder)
    selector = fs.FileSelector(inner, recursive=True, allow_not_found=True)
    paths = [
        info.path.removesuffix("/" + METRICS)
        for info in filesystem.get_file_info(selector)
        if info.path.endswith("/" + METRICS)
    ]
    prefix = folder[: -len(inner)] if "://" in folder else ""
    results = [load_result(prefix + path) for path in sorted(paths)]
    if not results:
        raise DataError(
            f"{folder}: found no {METRICS} below it; expected folders made by `msrrec evaluate`"
        )
    return sorted(results, key=_place)


def load_result(path: str) -> SystemResult:
    """One evaluation, with its model's training curve where that is still there.

    Raises:
        DataError: If metrics.json is missing or of another kind.
    """
    file = storage.join(path, METRICS)
    metrics = storage.read_json(file)
    if not isinstance(metrics, dict) or metrics.get("kind") != KIND:
        raise DataError(f"{file}: not an evaluation; expected one made by `msrrec evaluate`")
    return SystemResult(path, metrics, _training(metrics))


def build_report(results: Sequence[SystemResult], out: str) -> dict[str, Any]:
    """Write the page of some results, in their order; its table's rows and its findings.

    The row that others are compared with is the last ``fused`` one, or else the last row.
    """
    if not results:
        raise DataError(f"{out}: found no evaluations; expected at least one")
    rows = [_row(result, variant) for result in results for variant in result.metrics["variants"]]
    headline = next((r for r in reversed(rows) if r["variant"] == "fused"), rows[-1])
    _compare(rows, headline, {result.path: result for result in results})
    main = next(result for result in results if result.path == headline["path"])
    findings = _findings(rows, headline)
    page = render_page(
        "evaluation/report.html",
        rows=rows,
        headline=headline,
        main=main.metrics,
        findings=findings,
        top=_axis_top([row["hit_ratio"]["high"] for row in rows]),
        slots=_slots(main.metrics["variants"][headline["variant"]]["slots"]),
        histogram=_histogram(main.metrics.get("fusion", {}).get("perplexity")),
        curves=[c for c in (_curve(result) for result in results) if c],
        speeds=[r for r in results if "speed" in r.metrics],
    )
    storage.write_bytes(out, page)
    shown = [{key: value for key, value in row.items() if key != "path"} for row in rows]
    return {"systems": shown, "findings": findings}


def _place(result: SystemResult) -> tuple[int, int, bool, str]:
    """Baselines first, random before all, then base models, then those with more variants last."""
    kind, variants = result.metrics["system_kind"], result.metrics["variants"]
    return _KINDS.index(kind), len(variants), result.system != "random", result.system


def _training(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    model_dir = metrics.get("model", {}).get("model_dir")
    path = storage.join(model_dir, "metrics.jsonl") if model_dir else ""
    if not path or not storage.exists(path):
        return []
    lines = storage.read_bytes(path).decode("utf-8", errors="replace").splitlines()
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise DataError(f"{path}: not JSON lines ({error})") from error


def _row(result: SystemResult, variant: str) -> dict[str, Any]:
    found = result.metrics["variants"][variant]
    return {
        "system": result.system,
        "variant": variant,
        "path": result.path,
        "label": result.system if variant == result.system else f"{result.system} · {variant}",
        "kind": result.metrics["system_kind"],
        "num_users": found["num_users"],
        "chance": result.metrics["chance"],
        **{key: found[key] for key in ("hit_ratio", "valid_ratio", "hit_ratio_valid")},
    }


def _compare(
    rows: Sequence[dict[str, Any]],
    headline: Mapping[str, Any],
    results: Mapping[str, SystemResult],
) -> None:
    """Put the paired test of the headline against each other row of the same users into it."""
    main = results[headline["path"]]
    ours = _hits(main, headline["variant"])
    for row in rows:
        result = results[row["path"]]
        if row is headline or result.users != main.users:
            row["paired"] = None
        else:
            row["paired"] = asdict(mcnemar(ours, _hits(result, row["variant"])))


def _hits(result: SystemResult, variant: str) -> list[bool]:
    found = result.metrics["variants"][variant]
    return unpack_bits(found["hit_bits"], found["num_users"])


def _findings(rows: Sequence[Mapping[str, Any]], headline: Mapping[str, Any]) -> list[str]:
    """What the figures allow to be said, and what they don't."""
    hit, chance, label = headline["hit_ratio"], headline["chance"], headline["label"]
    findings = [
        f"{label} names the item that came next for {percent(hit['value'])} of "
        f"{headline['num_users']:,} users ({percent(hit['low'])} to {percent(hit['high'])}); "
        f"chance is {percent(chance)}. {_against_chance(hit, chance)}"
    ]
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["paired"]:
            groups.setdefault(_verdict(row["paired"]), []).append(row["label"])
    findings += [f"{verdict} {', '.join(labels)}." for verdict, labels in sorted(groups.items())]
    if headline["valid_ratio"]["value"] < VALID_BAR:
        findings.append(
            f"Only {percent(headline['valid_ratio']['value'])} of its answers name exactly one "
            "candidate; the rest count as misses."
        )
    return findings


def _verdict(paired: Mapping[str, Any]) -> str:
    if paired["p_value"] >= SIGNIFICANT:
        return "On the same users, no difference is shown from"
    is_better = paired["first_only"] > paired["second_only"]
    return f"On the same users, it is {'better' if is_better else 'worse'} than"


def _against_chance(hit: Mapping[str, float], chance: float) -> str:
    if hit["low"] > chance:
        return f"That is {hit['value'] / chance:.1f} times chance."
    if hit["high"] < chance:
        return "That is worse than chance: look for an error before anything else."
    return "That can't be told from chance on this many users."


def _axis_top(values: Sequence[float]) -> float:
    """The end of an axis from 0: the next tenth, at most 1."""
    return min(1.0, math.ceil(10 * max(values) + 0.01) / 10)


def _slots(slots: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the table of positions, and whether the choices lean to some."""
    total = max(sum(slots["num_chosen"]), 1)
    columns = zip(slots["num_users"], slots["hit_ratio"], slots["num_chosen"], strict=True)
    rows = [
        {"slot": n, "num_users": users, "hit_ratio": share, "chosen": chosen / total}
        for n, (users, share, chosen) in enumerate(columns, 1)
    ]
    highs = [row["hit_ratio"]["high"] for row in rows if row["hit_ratio"]]
    return {"rows": rows, "p_value": slots["uniform_p_value"], "top": _axis_top(highs or [1.0])}


def _histogram(perplexity: Mapping[str, Any] | None) -> dict[str, Any] | None:
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


def _curve(result: SystemResult) -> dict[str, Any] | None:
    """The losses of a training run on a 600 by 200 plane from 0 to the highest of them."""
    found = {
        name: [
            (float(line["step"]), float(line[name]))
            for line in result.training
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
    return {"system": result.system, "lines": lines, "ends": ends, "last": last, "top": top}
