"""The certificate as JSON, as a table in Markdown, and as a page."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.service.load import Tally

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
    """

    name: str
    title: str
    engines: str
    tally: Tally
    notes: str
    is_whole: bool

    @property
    def holds(self) -> bool:
        """Whether the claim holds: nobody lost anything, and all is as it was."""
        return self.is_whole and self.tally.holds


def write(folder: Path, rows: Sequence[Row]) -> str:
    """Write the certificate; returns its table."""
    folder.mkdir(parents=True, exist_ok=True)
    told = [{**asdict(row), "holds": row.holds} for row in rows]
    (folder / "certificate.json").write_text(json.dumps(told, indent=2) + "\n")
    table = render_table(rows)
    (folder / "certificate.md").write_text(table)
    return table


def render_table(rows: Sequence[Row]) -> str:
    """One row a fault."""
    lines = [
        " | ".join(["| fault", "engines", *_COLUMNS.values(), "claim", "notes |"]),
        "|---" * (len(_COLUMNS) + 4) + "|",
    ]
    for row in rows:
        figures = [_show(getattr(row.tally, name)) for name in _COLUMNS]
        claim = "holds" if row.holds else "broken"
        notes = "; ".join(filter(None, [row.notes, row.tally.why[:160]])).replace("|", "/")
        lines.append(" | ".join([f"| {row.title}", row.engines, *figures, claim, f"{notes} |"]))
    return "\n".join(lines) + "\n"


def _show(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"
