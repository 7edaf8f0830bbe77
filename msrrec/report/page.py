"""One self-contained HTML page, and JSON, from any number of evaluations.

How pages are made, and why nothing in them can run, is in ``page``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from pyarrow import fs

from msrrec import schema, storage
from msrrec.errors import DataError
from msrrec.evaluation.audit import VALID_BAR, audit_systems
from msrrec.evaluation.consistency import changed_choices
from msrrec.evaluation.evaluate import KIND, METRICS, SWEEP
from msrrec.evaluation.score import SCORES
from msrrec.metrics.ranking import unpack_bits
from msrrec.metrics.statistics import SIGNIFICANT, detectable_difference, holm, mcnemar
from msrrec.page import percent, render_page
from msrrec.report.paper import DATASETS, build_tables
from msrrec.report.plots import axis_top, histogram, sweep_figure, training_curve

PAGE = "report/index.html"
RESULTS = "report/results.json"

_SUMMARY = ("label", "system", "variant", "num_users", "hit_ratio", "valid_ratio", "paired")
"""What the command prints of each row; results.json has all of it."""
_KINDS = ("baseline", "api", "base", "trained")


@dataclass(frozen=True)
class SystemResult:
    """One evaluated system, as ``report/metrics.json`` holds it.

    Attributes:
        path: The folder of the evaluation.
        metrics: All of metrics.json.
        training: The lines of the model's metrics.jsonl, where it has one.
        reasoning: All of reasoning.json, where ``msrrec score`` has written it.
    """

    path: str
    metrics: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]] = field(default=())
    reasoning: Mapping[str, Any] | None = None

    @property
    def system(self) -> str:
        """What tables call it."""
        return str(self.metrics["system"])

    @property
    def is_permuted(self) -> bool:
        """Whether it had another order of candidates than the frozen one."""
        return bool(self.metrics["config"]["evaluate"]["permutation"])

    @property
    def users(self) -> tuple[str | int, ...]:
        """What two results must share to be compared user by user."""
        metrics, dataset = self.metrics, self.metrics["dataset"]
        shared = (dataset["fingerprint"], metrics["split"], metrics["num_users"])
        if dataset.get("negatives", "frozen") == "frozen":
            return shared
        return (*shared, dataset["negatives"], dataset["num_negatives"] or 0)


def report_folder(folder: str) -> dict[str, Any]:
    """Page and JSON in ``DIR/report`` from every evaluation and every sweep below a folder.

    Raises:
        DataError: If there is no evaluation.
    """
    return write_report(load_results(folder), folder, sweeps=load_sweeps(folder))


def write_report(
    results: Sequence[SystemResult],
    folder: str,
    failures: Mapping[str, str] | None = None,
    sweeps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Page and JSON in ``DIR/report`` from some evaluations, and the summary of both.

    Args:
        results: In the order of the table.
        folder: Where to write.
        failures: Systems without a result, and why.
        sweeps: For Figure 6, as ``load_sweeps`` gives them.
    """
    page = storage.join(folder, PAGE)
    report = build_report(results, page, failures, sweeps)
    storage.write_json(storage.join(folder, RESULTS), report)
    systems = [{name: row[name] for name in _SUMMARY} for row in report["systems"]]
    return {
        "page": page,
        "systems": systems,
        "findings": report["findings"],
        "warnings": report["warnings"],
    }


def load_results(folder: str) -> list[SystemResult]:
    """Every evaluation below a folder but a sweep's: baselines, base models, trained ones.

    Raises:
        DataError: If there is none.
    """
    sweeps = tuple(path + "/" for path in _find(folder, SWEEP))
    paths = [path for path in _find(folder, METRICS) if not path.startswith(sweeps)]
    results = [load_result(path) for path in paths]
    if not results:
        raise DataError(
            f"{folder}: found no {METRICS} below it; expected folders made by `msrrec evaluate`"
        )
    return sorted(results, key=_place)


def load_sweeps(folder: str) -> list[dict[str, Any]]:
    """What every sweep below a folder found, with its figure."""
    found = [storage.read_json(storage.join(path, SWEEP)) for path in _find(folder, SWEEP)]
    return [{**sweep, "figure": sweep_figure(sweep["points"])} for sweep in found]


def _find(folder: str, file: str) -> list[str]:
    """The folders, at any depth, that hold a file, sorted."""
    filesystem, inner = storage.resolve(folder)
    selector = fs.FileSelector(inner, recursive=True, allow_not_found=True)
    prefix = folder[: -len(inner)] if "://" in folder else ""
    return sorted(
        prefix + info.path.removesuffix("/" + file)
        for info in filesystem.get_file_info(selector)
        if info.path.endswith("/" + file)
    )


def load_result(path: str) -> SystemResult:
    """One evaluation, with its model's training curve where that is still there.

    Raises:
        DataError: If metrics.json is missing or of another kind.
    """
    file = storage.join(path, METRICS)
    metrics = storage.read_json(file)
    if not isinstance(metrics, dict) or metrics.get("kind") != KIND:
        raise DataError(f"{file}: not an evaluation; expected one made by `msrrec evaluate`")
    scores = storage.join(path, SCORES)
    reasoning = storage.read_json(scores) if storage.exists(scores) else None
    return SystemResult(path, metrics, _training(metrics), reasoning)


def build_report(
    results: Sequence[SystemResult],
    out: str,
    failures: Mapping[str, str] | None = None,
    sweeps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write the page of some results, in their order; its table's rows and its findings.

    The row that others are compared with is the last ``fused`` one, or else the last row, and of
    several seeds the first.
    """
    if not results:
        raise DataError(f"{out}: found no evaluations; expected at least one")
    changed = changed_choices([(result.path, dict(result.metrics)) for result in results])
    results = [result for result in results if not result.is_permuted] or results
    all_rows = [_row(result, name) for result in results for name in result.metrics["variants"]]
    rows, seeds = _first_seeds(all_rows), seed_spread(all_rows)
    headline = next((r for r in reversed(rows) if r["variant"] == "fused"), rows[-1])
    _compare(rows, headline, {result.path: result for result in results})
    main = next(result for result in results if result.path == headline["path"])
    findings = _findings(rows, headline) + _limits(rows, headline, results)
    checks = _checks(results)
    page = render_page(
        "report/report.html",
        rows=rows,
        failures=failures or {},
        headline=headline,
        main=main.metrics,
        reasoning=main.reasoning,
        findings=findings,
        checks=checks,
        top=axis_top([row["hit_ratio"]["high"] for row in rows]),
        slots=_slots(main.metrics["variants"][headline["variant"]]["slots"]),
        tables=build_tables(rows),
        printed_datasets=DATASETS,
        groups=_groups(main.metrics["variants"][headline["variant"]]),
        seeds=seeds,
        changed=changed,
        study=_study(main.metrics),
        cases=_cases(main, results),
        histogram=histogram(main.metrics.get("fusion", {}).get("perplexity")),
        curves=_curves(results),
        sweeps=sweeps,
        fits=[r for r in results if r.metrics.get("fit", {}).get("sequential")],
        speeds=[r for r in results if "speed" in r.metrics],
    )
    storage.write_bytes(out, page)
    shown = [{k: v for k, v in row.items() if k not in ("path", "key")} for row in rows]
    warnings = [f"{check['name']}: {check['text']}" for check in checks if not check["ok"]]
    return {
        "systems": shown,
        "failures": dict(failures or {}),
        "findings": findings,
        "warnings": warnings,
        "seeds": seeds,
        "changed_choices": changed,
        "fusion_study": _study(main.metrics),
    }


def _checks(results: Sequence[SystemResult]) -> list[dict[str, Any]]:
    """Every check of every evaluation, failed ones first, and those between evaluations."""
    checks = [
        {**check, "name": f"{check['name']}, {result.system}"}
        for result in results
        for check in result.metrics["audit"]
    ]
    checks += audit_systems([result.metrics for result in results])
    different = {(check["name"], check["text"]): check for check in checks}
    return sorted(different.values(), key=lambda check: bool(check["ok"]))


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
    scored = (result.reasoning or {}).get("variants", {}).get(variant, {})
    return {
        "system": result.system,
        "variant": variant,
        "path": result.path,
        "label": result.system if variant == result.system else f"{result.system} · {variant}",
        "kind": result.metrics["system_kind"],
        "domain": result.metrics["dataset"]["domain"],
        "key": "/".join(map(str, result.users)),
        "seed": result.metrics["config"]["inference"]["seed"],
        "num_users": found["num_users"],
        "chance": result.metrics["chance"],
        **{key: found[key] for key in ("hit_ratio", "valid_ratio", "hit_ratio_valid")},
        "ranking": found["ranking"],
        "quality": found["reasoning"],
        **{metric: figures["all"] for metric, figures in scored.items()},
    }


def _compare(
    rows: Sequence[dict[str, Any]],
    headline: Mapping[str, Any],
    results: Mapping[str, SystemResult],
) -> None:
    """Put the paired test of the headline against each other row of the same users into it.

    ``p_adjusted`` is Holm's, over all of these comparisons.
    """
    main = results[headline["path"]]
    ours = _hits(main, headline["variant"])
    for row in rows:
        result = results[row["path"]]
        if row is headline or result.users != main.users:
            row["paired"] = None
        else:
            row["paired"] = asdict(mcnemar(ours, _hits(result, row["variant"])))
    found = [row["paired"] for row in rows if row["paired"]]
    for paired, adjusted in zip(found, holm([p["p_value"] for p in found]), strict=True):
        discordant = (paired["first_only"] + paired["second_only"]) / len(ours)
        paired["p_adjusted"] = adjusted
        paired["detectable"] = detectable_difference(len(ours), discordant)


def _hits(result: SystemResult, variant: str) -> list[bool]:
    found = result.metrics["variants"][variant]
    return unpack_bits(found["hit_bits"], found["num_users"])


def seed_spread(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of HitRatio@1 over the seeds of one system on the same users."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row["kind"] != "baseline":
            values = groups.setdefault((row["key"], row["label"]), {})
            values[row["seed"]] = row["hit_ratio"]["value"]
    return [
        {
            "label": label,
            "mean": mean(values.values()),
            "sd": stdev(values.values()),
            "values": values,
        }
        for (_, label), values in groups.items()
        if len(values) > 1
    ]


def _first_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of each system and variant on the same users; further seeds only show the spread."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        first.setdefault((row["key"], row["label"]), row)
    return list(first.values())


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


_CONTROLS = ("popularity", "item-knn")
"""What a system trained on item ids has to beat."""


def _limits(
    rows: Sequence[Mapping[str, Any]],
    headline: Mapping[str, Any],
    results: Sequence[SystemResult],
) -> list[str]:
    """How many targets no training user bought, and which trained baselines that holds back."""
    found = {result.path: result for result in results}
    metrics = found[headline["path"]].metrics["variants"][headline["variant"]]
    cold = _cold_share(metrics)
    if cold is None:
        return []
    told = [
        f"{percent(cold)} of the targets are cold: no training user bought them, so a system that "
        "learns from item ids alone can't know them."
    ]
    same = [row for row in rows if row["key"] == headline["key"]]
    controls = [row for row in same if row["system"] in _CONTROLS]
    for row in same:
        if not found[row["path"]].metrics.get("fit", {}).get("sequential"):
            continue
        for control in controls:
            told += _against_control(found[row["path"]], found[control["path"]])
    return told


def _against_control(trained: SystemResult, control: SystemResult) -> list[str]:
    """Nothing where a trained baseline is above a control, else how far from that it is."""
    ours, its = (r.metrics["variants"][r.system] for r in (trained, control))
    paired = mcnemar(_hits(trained, trained.system), _hits(control, control.system))
    if paired.difference > 0 and paired.p_value < SIGNIFICANT:
        return []
    verdict = "is below" if paired.p_value < SIGNIFICANT else "is not shown to be above"
    fit = trained.metrics["fit"]
    return [
        f"{trained.system} {verdict} {control.system} ({ours['hit_ratio']['value']:.4f} against "
        f"{its['hit_ratio']['value']:.4f}, p = {paired.p_value:.3f}). On targets that somebody "
        f"bought in training it is {_warm(ours)} against {_warm(its)}; it learned from "
        f"{fit['events_per_item']:.1f} events an item."
    ]


def _cold_share(metrics: Mapping[str, Any]) -> float | None:
    if not metrics["popularity"]:
        return None
    nobody = metrics["popularity"]["rows"][0]
    return float(nobody["num_users"] / max(metrics["num_users"], 1))


def _warm(metrics: Mapping[str, Any]) -> str:
    """HitRatio@1 over the users whose target was bought in training."""
    warm = [row for row in metrics["popularity"]["rows"] if row["low"] and row["num_users"]]
    users = sum(row["num_users"] for row in warm)
    hits = sum(row["num_users"] * row["hit_ratio"]["value"] for row in warm)
    return f"{hits / users:.4f}" if users else "unknown"


def _verdict(paired: Mapping[str, Any]) -> str:
    if paired["p_adjusted"] >= SIGNIFICANT:
        return "On the same users, no difference is shown from"
    is_better = paired["first_only"] > paired["second_only"]
    return f"On the same users, it is {'better' if is_better else 'worse'} than"


def _against_chance(hit: Mapping[str, float], chance: float) -> str:
    if hit["low"] > chance:
        return f"That is {hit['value'] / chance:.1f} times chance."
    if hit["high"] < chance:
        return "That is worse than chance: look for an error before anything else."
    return "That can't be told from chance on this many users."


def _slots(slots: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the table of positions, and whether the choices lean to some."""
    total = max(sum(slots["num_chosen"]), 1)
    columns = zip(slots["num_users"], slots["hit_ratio"], slots["num_chosen"], strict=True)
    rows = [
        {"slot": n, "num_users": users, "hit_ratio": share, "chosen": chosen / total}
        for n, (users, share, chosen) in enumerate(columns, 1)
    ]
    highs = [row["hit_ratio"]["high"] for row in rows if row["hit_ratio"]]
    return {
        "rows": rows,
        "p_value": slots["uniform_p_value"],
        "hit_p_value": slots["hit_p_value"],
        "top": axis_top(highs or [1.0]),
    }


def _curves(results: Sequence[SystemResult]) -> list[dict[str, Any]]:
    """One training curve a model, however often it was evaluated."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        curve = training_curve(result.training)
        if curve:
            found.setdefault(
                result.metrics["model"]["model_dir"], {"system": result.system, **curve}
            )
    return list(found.values())


_GROUPS = {"history_length": "purchases before", "popularity": "training users of the target"}


def _groups(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """HitRatio@1 by history length and by popularity of the target; nobody trained on cold ones."""
    return [
        {"title": title, "rows": _labelled(found[name]["rows"]), "p_value": found[name]["p_value"]}
        for name, title in _GROUPS.items()
        if found[name]
    ]


def _labelled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    labelled = []
    for row in rows:
        low, high = row["low"], row["high"]
        label = (
            f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
        )
        labelled.append({**row, "label": "0 (cold)" if (low, high) == (0, 0) else label})
    return labelled


_RULES = {
    "user": "user side alone",
    "item": "item side alone",
    "eq3": "Equation 3",
    "min": "always the lower perplexity",
    "max": "always the higher perplexity",
    "margin": "the larger margin in likelihood",
    "vote": "vote with the full chain",
    "gate": "gate fitted on validation",
    "eq3_output": "Equation 3, perplexity of the whole output",
    "eq3_unconditional": "Equation 3, perplexity without the prompt",
    "oracle": "oracle: either side right",
}


def _study(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rules of fusion as the page shows them, p-values corrected over the rules that choose."""
    rows = [
        {**row, "label": _RULES[row["rule"]]} for row in metrics.get("fusion", {}).get("study", ())
    ]
    tested = [row for row in rows if row["against_eq3"] and row["rule"] != "oracle"]
    adjusted = holm([row["against_eq3"]["p_value"] for row in tested])
    for row, p_adjusted in zip(tested, adjusted, strict=True):
        row["p_adjusted"] = p_adjusted
    return rows


def _cases(main: SystemResult, results: Sequence[SystemResult]) -> list[dict[str, Any]]:
    """The case studies with the reference, and with what the backbone wrote for the same user."""
    cases = [dict(case) for case in main.metrics.get("cases", ())]
    references = (main.reasoning or {}).get("cases", {})
    base = next((r for r in results if r.metrics["system_kind"] == "base"), None)
    rows = _backbone_rows(base) if base and base.users == main.users else {}
    for case in cases:
        case["reference"] = references.get(case["example_id"])
        case["backbone"] = rows.get(case["example_id"])
    return cases


def _backbone_rows(base: SystemResult) -> dict[str, dict[str, Any]]:
    variant = next(iter(base.metrics["variants"]))
    path = storage.join(base.path, "predictions", f"{variant}.parquet")
    if not storage.exists(path):
        return {}
    rows = storage.read_table(path, schema.PREDICTIONS).to_pylist()
    return {row["example_id"]: {"system": base.system, **row} for row in rows}
