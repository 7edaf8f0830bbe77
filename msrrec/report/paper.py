"""The paper's tables with its printed figures, beside this project's rows.

``evaluation.systems`` decides which row a system corresponds to. The paper's data, backbone and
judge differ from ours: equal names mean the same method, not that figures can be subtracted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Literal

from msrrec.evaluation.results import Metric
from msrrec.evaluation.systems import BACKBONE, MSR_REC, RECSAVER, TEACHER, WITHOUT_REASONING
from msrrec.metrics.statistics import Share
from msrrec.report.results import SystemRow


@dataclass(frozen=True)
class Statistics:
    """The size of a dataset, as in the paper's Table 1.

    ``density`` is the number of interactions over that of pairs of a user and an item.
    """

    name: str
    num_users: int
    num_items: int
    num_interactions: int
    density: float


TABLE_1 = (
    Statistics("Electronics", 1_500, 6_944, 9_755, 0.00094),
    Statistics("Home", 1_500, 6_481, 9_518, 0.00098),
    Statistics("Health", 1_500, 6_007, 9_477, 0.00105),
)
DATASETS = tuple(row.name for row in TABLE_1)

TABLE_2: dict[str, tuple[tuple[float, float], ...]] = {
    "Caser": ((0.1427, 1.0000), (0.1580, 1.0000), (0.1840, 1.0000)),
    "GRU4Rec": ((0.1840, 1.0000), (0.1680, 1.0000), (0.1827, 1.0000)),
    "SASRec": ((0.1760, 1.0000), (0.1693, 1.0000), (0.1840, 1.0000)),
    BACKBONE: ((0.1500, 0.3300), (0.1333, 0.3093), (0.1706, 0.3687)),
    TEACHER: ((0.2653, 0.9800), (0.2760, 0.9960), (0.3873, 0.9907)),
    RECSAVER: ((0.2953, 0.9833), (0.2640, 0.9953), (0.3633, 0.9860)),
    "TALLRec (7B)": ((0.3313, 0.9800), (0.2680, 0.9700), (0.4087, 0.9787)),
    "LLaRA (7B)": ((0.3400, 0.9987), (0.2507, 0.9953), (0.4220, 0.9933)),
    MSR_REC: ((0.4453, 0.9653), (0.3453, 0.9367), (0.4513, 0.9740)),
}
"""HitRatio@1 and ValidRatio."""

TABLE_3: dict[str, tuple[tuple[float, float, float], ...]] = {
    BACKBONE: ((0.0303, 0.4776, 22.35), (0.0208, 0.4613, 17.15), (0.0323, 0.4816, 36.35)),
    RECSAVER: ((0.2251, 0.6271, 90.62), (0.2194, 0.6300, 91.29), (0.2345, 0.6432, 92.21)),
    "TALLRec (7B)": ((0.0239, 0.4720, 60.21), (0.0181, 0.4462, 63.83), (0.0249, 0.4621, 73.63)),
    "LLaRA (7B)": ((0.0175, 0.4477, 51.61), (0.0100, 0.4079, 49.08), (0.0183, 0.4253, 65.85)),
    MSR_REC: ((0.0812, 0.5574, 82.35), (0.0762, 0.5390, 80.99), (0.0698, 0.5349, 86.52)),
}
"""METEOR, BERTScore F1 and what the paper calls GPTScore, a mark of 0 to 100."""

TABLE_4: dict[str, tuple[tuple[float, float, float], ...]] = {
    WITHOUT_REASONING: (
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

FIGURE_6_POINT = TABLE_4["MSR-Rec"]
"""The figures at the weights 0.7 and 0.3 of Figure 6, which are the default of all tables."""

Printed = tuple[tuple[float, ...], ...]
"""The paper's figures of one row: for each dataset, one figure per metric."""
Column = Metric | Literal["hit_ratio", "valid_ratio"]


@dataclass(frozen=True)
class Shape:
    """One of the paper's tables: its columns, the metrics in them, and its printed rows."""

    number: int
    title: str
    columns: tuple[str, ...]
    metrics: tuple[Column, ...]
    printed: Mapping[str, Printed]


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: The paper's name of the row, or our own if the paper has no such row.
        labels: Names of our rows in this line, if they differ.
        ours: Our figures by dataset; None if not measured.
        paper: The printed figures; None for a row that only we have.
    """

    name: str
    labels: tuple[str, ...] = ()
    ours: Mapping[str, tuple[Share | None, ...]] = field(default_factory=dict)
    paper: Printed | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper beside ours.

    Attributes:
        datasets: Our datasets: key of the evaluated users, and domain.
        lines: The paper's rows in its order, then our further rows.
        gains: By dataset, the relative gain of MSR-Rec's HitRatio@1 over the best other system;
            None if unknown. Only for Table 2.
    """

    shape: Shape
    datasets: Mapping[str, str]
    lines: tuple[Line, ...]
    gains: Mapping[str, float | None]


SHAPES = (
    Shape(2, "Recommendation", ("HitRatio@1", "ValidRatio"), ("hit_ratio", "valid_ratio"), TABLE_2),
    Shape(
        3,
        "Reasoning against the teacher's correct paths",
        ("METEOR", "BERTScore F1", "Judge 0–100"),
        ("meteor", "bertscore_f1", "judge_0_100"),
        TABLE_3,
    ),
    Shape(
        4,
        "Ablation",
        ("HitRatio@1", "METEOR", "Judge 0–100"),
        ("hit_ratio", "meteor", "judge_0_100"),
        TABLE_4,
    ),
)


def build_tables(rows: Sequence[SystemRow]) -> list[PaperTable]:
    """Tables 2, 3 and 4: the paper's rows in its order with ours, then our further rows."""
    return [_table(shape, rows) for shape in SHAPES]


def _table(shape: Shape, rows: Sequence[SystemRow]) -> PaperTable:
    lines = {name: Line(name, paper=cells) for name, cells in shape.printed.items()}
    for row in rows:
        name = _ablation_name(row) if shape.number == 4 else _system_name(row)
        cells = _cells(row, shape)
        if name is None or (shape.number == 3 and not any(cells)):
            continue
        name = _free_line(lines, row, name)
        lines[name] = _put(lines.get(name, Line(name)), row, cells)
    datasets = {row.users: row.domain for row in rows}
    gains = {users: _gain(rows, users) for users in datasets} if shape.number == 2 else {}
    return PaperTable(shape, datasets, tuple(lines.values()), gains)


def _free_line(lines: Mapping[str, Line], row: SystemRow, name: str) -> str:
    """The line of a row: the paper's or its label's, and where both are taken a numbered one."""
    names = chain((name, row.label), (f"{row.label} ({n})" for n in count(2)))
    return next(name for name in names if row.users not in lines.get(name, Line(name)).ours)


def _put(line: Line, row: SystemRow, cells: tuple[Share | None, ...]) -> Line:
    labels = line.labels if row.label in (*line.labels, line.name) else (*line.labels, row.label)
    return replace(line, labels=labels, ours={**line.ours, row.users: cells})


def _cells(row: SystemRow, shape: Shape) -> tuple[Share | None, ...]:
    return tuple(getattr(row, metric) for metric in shape.metrics)


def _system_name(row: SystemRow) -> str | None:
    """The row's line in Tables 2 and 3; None if it belongs only to Table 4."""
    if row.system.paper_row in TABLE_4:
        return None
    if row.system.paper_row == MSR_REC:
        return MSR_REC if row.variant == "fused" else None
    return row.system.paper_row or row.label


_VARIANTS = {
    "fused": "MSR-Rec",
    "full": "MSR-Rec (full)",
    "user": "MSR-Rec (user)",
    "item": "MSR-Rec (item)",
}
"""The paper's names of MSR-Rec's variants in Table 4."""


def _ablation_name(row: SystemRow) -> str | None:
    """The row's line in Table 4; None for systems other than MSR-Rec."""
    if row.system.paper_row == MSR_REC:
        return _VARIANTS.get(row.variant)
    return row.system.paper_row if row.system.paper_row in TABLE_4 else None


def _gain(rows: Iterable[SystemRow], users: str) -> float | None:
    """The relative gain of MSR-Rec's HitRatio@1 over the best other system.

    The others are trained rows, and rows that correspond to one of Table 2. None without MSR-Rec,
    or if no other is trained: beating a random choice or an untrained model is no improvement.
    """
    same = [row for row in rows if row.users == users]
    own = [row for row in same if _system_name(row) == MSR_REC]
    others = [row for row in same if not _is_own(row)]
    trained = [row for row in others if row.is_trained]
    if not own or not trained:
        return None
    named = [row for row in others if row.system.paper_row]
    best = max(row.hit_ratio.value for row in (*trained, *named))
    return own[0].hit_ratio.value / best - 1 if best else None


def _is_own(row: SystemRow) -> bool:
    return row.system.id.startswith("msrrec")
