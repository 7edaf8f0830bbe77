"""The paper's tables beside ours: its printed figures, and which of our rows stands for which.

The paper's data, backbone and judge are not ours: equal names say that the part is the same, not
that the figures can be subtracted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

DATASETS = ("Electronics", "Home", "Health")

MSR_REC = "MSR-Rec (8B)"
BACKBONE = "Llama3 (8B)"

TABLE_2: dict[str, tuple[tuple[float, float], ...]] = {
    "Caser": ((0.1427, 1.0000), (0.1580, 1.0000), (0.1840, 1.0000)),
    "GRU4Rec": ((0.1840, 1.0000), (0.1680, 1.0000), (0.1827, 1.0000)),
    "SASRec": ((0.1760, 1.0000), (0.1693, 1.0000), (0.1840, 1.0000)),
    BACKBONE: ((0.1500, 0.3300), (0.1333, 0.3093), (0.1706, 0.3687)),
    "DeepSeek-R1 (671B)": ((0.2653, 0.9800), (0.2760, 0.9960), (0.3873, 0.9907)),
    "RecSAVER (671B)": ((0.2953, 0.9833), (0.2640, 0.9953), (0.3633, 0.9860)),
    "TALLRec (7B)": ((0.3313, 0.9800), (0.2680, 0.9700), (0.4087, 0.9787)),
    "LLaRA (7B)": ((0.3400, 0.9987), (0.2507, 0.9953), (0.4220, 0.9933)),
    MSR_REC: ((0.4453, 0.9653), (0.3453, 0.9367), (0.4513, 0.9740)),
}
"""HitRatio@1 and ValidRatio."""

TABLE_3: dict[str, tuple[tuple[float, float, float], ...]] = {
    BACKBONE: ((0.0303, 0.4776, 22.35), (0.0208, 0.4613, 17.15), (0.0323, 0.4816, 36.35)),
    "RecSAVER (671B)": ((0.2251, 0.6271, 90.62), (0.2194, 0.6300, 91.29), (0.2345, 0.6432, 92.21)),
    "TALLRec (7B)": ((0.0239, 0.4720, 60.21), (0.0181, 0.4462, 63.83), (0.0249, 0.4621, 73.63)),
    "LLaRA (7B)": ((0.0175, 0.4477, 51.61), (0.0100, 0.4079, 49.08), (0.0183, 0.4253, 65.85)),
    MSR_REC: ((0.0812, 0.5574, 82.35), (0.0762, 0.5390, 80.99), (0.0698, 0.5349, 86.52)),
}
"""METEOR, BERTScore F1 and what the paper calls GPTScore, a mark of 0 to 100."""

TABLE_4: dict[str, tuple[tuple[float, float, float], ...]] = {
    "MSR-Rec w/o reason": (
        (0.3613, 0.0256, 65.55),
        (0.2980, 0.0183, 68.14),
        (0.4393, 0.0257, 76.97),
    ),
    "MSR-Rec (full)": ((0.4220, 0.0878, 85.25), (0.3287, 0.0775, 83.18), (0.4380, 0.0819, 88.07)),
    "MSR-Rec (user)": ((0.4407, 0.0634, 81.95), (0.3267, 0.0689, 81.57), (0.4433, 0.0460, 86.66)),
    "MSR-Rec (item)": ((0.4433, 0.0966, 86.86), (0.3373, 0.0824, 83.61), (0.4413, 0.0796, 87.96)),
    "MSR-Rec": ((0.4453, 0.0812, 82.35), (0.3453, 0.0762, 80.99), (0.4513, 0.0698, 86.52)),
}
"""HitRatio@1, METEOR and the mark of 0 to 100."""

Row = Mapping[str, Any]
Key = tuple[str, str]
"""Dataset fingerprint and split."""

_TABLES: tuple[dict[str, Any], ...] = (
    {
        "number": 2,
        "title": "Recommendation",
        "columns": ("HitRatio@1", "ValidRatio"),
        "metrics": ("hit_ratio", "valid_ratio"),
        "printed": TABLE_2,
    },
    {
        "number": 3,
        "title": "Reasoning against the teacher's correct paths",
        "columns": ("METEOR", "BERTScore F1", "Judge 0–100"),
        "metrics": ("meteor", "bertscore_f1", "judge_0_100"),
        "printed": TABLE_3,
    },
    {
        "number": 4,
        "title": "Ablation",
        "columns": ("HitRatio@1", "METEOR", "Judge 0–100"),
        "metrics": ("hit_ratio", "meteor", "judge_0_100"),
        "printed": TABLE_4,
    },
)


def build_tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Tables 2, 3 and 4: the paper's rows in its order, ours beside them, and ours alone last.

    Args:
        rows: Of the report; each has ``key``, ``domain`` and the metrics by name, None where not
            measured.
    """
    keys = {row["key"]: row["domain"] for row in rows}
    return [_table(shape, rows, keys) for shape in _TABLES]


def _table(
    shape: Mapping[str, Any], rows: Sequence[Row], keys: Mapping[Key, str]
) -> dict[str, Any]:
    printed, is_ablation = shape["printed"], shape["number"] == 4
    lines: dict[str, dict[str, Any]] = {
        name: {"name": name, "labels": [], "ours": {}, "paper": cells}
        for name, cells in printed.items()
    }
    for row in rows:
        name = _ablation_name(row) if is_ablation else _system_name(row)
        if name is None or (shape["number"] == 3 and not any(_cells(row, shape))):
            continue
        line = lines.setdefault(name, {"name": name, "labels": [], "ours": {}, "paper": None})
        if row["key"] not in line["ours"]:
            line["ours"][row["key"]] = _cells(row, shape)
        if row["label"] not in (*line["labels"], name):
            line["labels"].append(row["label"])
    return {
        **shape,
        "datasets": dict(keys),
        "lines": [{**line, "is_ours": bool(line["ours"])} for line in lines.values()],
        "gains": _gains(lines, keys) if shape["number"] == 2 else {},
    }


def _cells(row: Row, shape: Mapping[str, Any]) -> list[Any]:
    return [row.get(metric) for metric in shape["metrics"]]


def _system_name(row: Row) -> str | None:
    """The paper's name of a row's system in Tables 2 and 3; our own where it has none."""
    other = _other_system(row)
    if other:
        return other
    if row["kind"] == "base":
        return BACKBONE if row["variant"] == "full" else None
    if row["kind"] == "trained":  # the other variants belong to Table 4 alone
        return MSR_REC if row["variant"] == "fused" else None
    return str(row["label"])


def _ablation_name(row: Row) -> str | None:
    """The paper's name of a row in Table 4; None for other systems."""
    if row["kind"] != "trained" or _other_system(row):
        return None
    if row["variant"] == "direct":
        return "MSR-Rec w/o reason"
    return "MSR-Rec" if row["variant"] == "fused" else f"MSR-Rec ({row['variant']})"


def _other_system(row: Row) -> str | None:
    """The paper's name of a system that is neither MSR-Rec nor its backbone, by its first word."""
    first = str(row["system"]).casefold().replace("-", " ").split(" ")[0]
    others = (name for name in TABLE_2 if name not in (MSR_REC, BACKBONE))
    return next((name for name in others if _first_word(name) == first), None)


def _first_word(name: str) -> str:
    return name.casefold().replace("-", " ").split(" ")[0]


def _gains(
    lines: Mapping[str, Mapping[str, Any]], keys: Mapping[Key, str]
) -> dict[Key, float | None]:
    """How much higher MSR-Rec's HitRatio@1 is than the best other line's, as a share of it."""
    gains: dict[Key, float | None] = {}
    for key in keys:
        own = lines[MSR_REC]["ours"].get(key)
        others = [
            line["ours"][key][0]["value"]
            for name, line in lines.items()
            if name != MSR_REC and key in line["ours"]
        ]
        best = max(others, default=0.0)
        gains[key] = own[0]["value"] / best - 1 if own and best else None
    return gains
