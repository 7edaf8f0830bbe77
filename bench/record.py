"""What a benchmark found, as a file of ``bench/results``, from which ``bench.page`` writes.

A row sets our figures beside a peer's, round by round of one run, or beside a bound alone. Its
ratio is the median of the rounds' own ratios, since both sides of a round share what else the
machine was doing; its spread is the smallest and the largest of them.
"""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.hardware import hardware
from msrrec.versions import package_versions, versions

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Aim:
    """A bound on a ratio.

    Attributes:
        side: Whether the ratio must be at least or at most the bound.
        bound: The bound itself.
    """

    side: Literal["at least", "at most"]
    bound: float

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio keeps the bound, as both are shown: to three digits."""
        shown = float(f"{ratio:.3g}")
        return shown >= self.bound if self.side == "at least" else shown <= self.bound


@dataclass(frozen=True)
class Row:
    """Our figures beside a peer's.

    Attributes:
        what: What was measured.
        ours: Our figure in each round.
        peer: The peer's figure in each round; empty where there is none.
        peer_name: Who the peer is.
        unit: The unit of both figures.
        ratio_of: Which figure is divided by which.
        aim: What the ratio should be, or our figure where there is no peer; None if nothing is set.
        floor: What the ratio can be at best, and by what; empty where nobody measured it.
        is_headline: Whether the page's first table shows the row.
    """

    what: str
    ours: Sequence[float]
    peer: Sequence[float]
    peer_name: str
    unit: str
    _: KW_ONLY
    ratio_of: Literal["ours / peer", "peer / ours"] = "ours / peer"
    aim: Aim | None = None
    floor: str = ""
    is_headline: bool = True

    def ratios(self) -> list[float]:
        """The ratio of each round; our figures themselves where there is no peer."""
        if not self.peer:
            return list(self.ours)
        pairs = zip(self.ours, self.peer, strict=True)
        if self.ratio_of == "ours / peer":
            return [ours / peer for ours, peer in pairs]
        return [peer / ours for ours, peer in pairs]

    def to_json(self) -> dict[str, Any]:
        """The row with its ratio, spread and verdict."""
        ratios = self.ratios()
        ratio = statistics.median(ratios)
        return asdict(self) | {
            "ratio": ratio,
            "spread": [min(ratios), max(ratios)],
            "aim": None if self.aim is None else str(self.aim),
            "met": None if self.aim is None else self.aim.is_met(ratio),
        }


@dataclass(frozen=True)
class Table:
    """A further table of a result, for its section of the page.

    Attributes:
        columns: The heads.
        rows: The cells, as they are to be read.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """All that one command found.

    Attributes:
        rows: Comparisons.
        rounds: Number of rounds, in which the sides took turns.
        packages: Names of the packages whose versions matter, beside those of every result.
        tables: Further tables by name.
        notes: Further figures by name, for sentences of the page.
        machine: The machine, if it is another one than this.
    """

    rows: Sequence[Row]
    rounds: int
    packages: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    notes: Mapping[str, float | str] = field(default_factory=dict)
    machine: Mapping[str, Any] | None = None


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark keep its result."""
    parser.add_argument("--result", type=Path, help="file of bench/results to keep the result in")


def keep(path: Path | None, result: Result) -> None:
    """Write a result to its file, if there is one, with the command that this process runs."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(describe(result), indent=2, ensure_ascii=False) + "\n")


def describe(result: Result) -> dict[str, Any]:
    """A result as it is kept."""
    further = package_versions(result.packages)  # of those that are installed
    return {
        "command": this_command(),
        "machine": result.machine or hardware(),
        "versions": versions() | further,
        "packages": list(further),
        "rounds": result.rounds,
        "rows": [row.to_json() for row in result.rows],
        "tables": {name: asdict(table) for name, table in result.tables.items()},
        "notes": dict(result.notes),
    }


def this_command() -> str:
    """The command of this process, without the file of its result."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if word != "--result" or not next(words)]
    module = Path(sys.argv[0]).relative_to(Path(__file__).parents[1]).with_suffix("")
    return shlex.join(["python", "-m", ".".join(module.parts), *kept])
