"""The certificate as JSON, as a table in Markdown, and as a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from msrrec.page import svg_points
from tests.service.load import Second, Tally
from tests.support.pages import ROOT

_COLUMNS = {
    "sent": "sent",
    "accepted": "answered",
    "refused": "refused",
    "failed": "failed",
    "wrong": "wrong",
    "repeated": "repeated",
    "cut": "cut",
    "asked_again": "asked again",
    "noticed_s": "noticed for s",
    "slowest_s": "slowest s",
}
"""Heads of the table by the fields of a tally."""


@dataclass(frozen=True)
class Row:
    """What became of the load under one fault.

    Attributes:
        notes: What the fault itself measured.
        is_whole: Whether what the fault expects came true.
        made: When.
        seconds: The load second by second, for the plot.
    """

    name: str
    title: str
    engines: str
    tally: Tally
    notes: str
    is_whole: bool
    made: str
    seconds: tuple[Second, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the claim holds: nobody lost anything, and all is as it was."""
        return self.is_whole and self.tally.holds

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> "Row":
        """From what ``write`` wrote of it."""
        fields = {key: value for key, value in told.items() if key != "holds"}
        seconds = tuple(Second(**one) for one in fields.pop("seconds"))
        return cls(**{**fields, "tally": Tally(**fields["tally"]), "seconds": seconds})


def write(folder: Path, made: Sequence[Row], names: Sequence[str]) -> None:
    """Write the certificate with new rows in place of old ones of theirs.

    Args:
        folder: Where it is, and may be already.
        made: The new rows.
        names: The names of all rows there can be, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "certificate.json"
    old = map(Row.read, json.loads(file.read_text()) if file.exists() else ())
    by_name = {row.name: row for row in (*old, *made)}
    rows = [by_name[name] for name in names if name in by_name]
    told = [{**asdict(row), "holds": row.holds} for row in rows]
    file.write_text(json.dumps(told) + "\n")
    (folder / "certificate.md").write_text(render_table(rows))
    (folder / "index.html").write_bytes(render_page(rows))


def render_table(rows: Sequence[Row]) -> str:
    """One row a fault."""
    lines = [
        " | ".join(["| fault", "engines", *_COLUMNS.values(), "claim", "made", "notes |"]),
        "|---" * (len(_COLUMNS) + 5) + "|",
    ]
    for row in rows:
        figures = [_show(getattr(row.tally, name)) for name in _COLUMNS]
        claim = "holds" if row.holds else "broken"
        notes = "; ".join(filter(None, [row.notes, row.tally.why[:160]])).replace("|", "/")
        cells = [f"| {row.title}", row.engines, *figures, claim, row.made, f"{notes} |"]
        lines.append(" | ".join(cells))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Plot:
    """One row over time: points of polylines in an area of 600 by 200.

    Attributes:
        row: What is plotted.
        lines: Points by what they show.
        tops: The value at the upper end, likewise.
        fault_x: Where the fault is.
        first_s: Seconds at the left end, from the fault.
        last_s: At the right end.
    """

    row: Row
    lines: dict[str, str]
    tops: dict[str, float]
    fault_x: float
    first_s: int
    last_s: int


def draw(row: Row) -> Plot:
    """The load, the engines and the latency of a row."""
    first, last = row.seconds[0].at_s, row.seconds[-1].at_s
    curves = {
        "requests that came in a second": [(one.at_s, one.came) for one in row.seconds],
        "engines": [(s.at_s, s.engines) for s in row.seconds if s.engines is not None],
        "median seconds until the answer": [
            (one.at_s, one.median_s) for one in row.seconds if one.median_s is not None
        ],
    }
    tops = {name: max([1.0, *(y for _, y in points)]) for name, points in curves.items()}

    def place(at_s: float) -> float:
        return 600 * (at_s - first) / max(1, last - first)

    lines = {
        name: svg_points([(place(x), 200 - 200 * y / tops[name]) for x, y in points])
        for name, points in curves.items()
    }
    return Plot(row, lines, tops, place(0), first, last)


def render_page(rows: Sequence[Row]) -> bytes:
    """The page, which loads nothing from elsewhere."""
    folders = (Path(__file__).parent, ROOT / "msrrec")
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    plots = [draw(row) for row in rows if row.seconds]
    template = environment.get_template("certificate.html")
    return template.render(rows=rows, columns=_COLUMNS, show=_show, plots=plots).encode()


def _show(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"
