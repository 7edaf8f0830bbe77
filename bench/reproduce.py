"""Rebuild a committed table with the commands that it names, and compare row by row.

    python -m bench.reproduce tables/amazon2014-toys.md --out runs/reproduce \
      --interactions interactions.csv.gz --items items.csv.gz --systems random,popularity,bm25-mean

A row is the "same" if HitRatio@1 and ValidRatio are equal to four digits, as those of systems that
train nothing should be, and "within" if the new HitRatio@1 lies in the 95% interval of the
committed one. Anything else, a missing row included, is "outside", and the exit status is 1. What
is finished under ``--out`` is not run again. ``--systems`` rebuilds some of the rows alone.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msrrec.errors import DataError

TABLE = "report/table.md"
_VALUE = re.compile(r"(\d\.\d+)(?: \[(\d\.\d+), (\d\.\d+)\])?")


@dataclass(frozen=True)
class Row:
    """HitRatio@1 of one system with its interval, and its ValidRatio."""

    hit_ratio: float
    low: float
    high: float
    valid_ratio: float


@dataclass(frozen=True)
class Table:
    """A table as ``msrrec compare`` writes it: rows by label, and the commands that made it."""

    rows: Mapping[str, Row]
    commands: Sequence[Sequence[str]]


def read_table(text: str, name: str) -> Table:
    """The rows and commands of a Markdown table.

    Args:
        text: The file's content.
        name: For errors.

    Raises:
        DataError: If it has no rows, or no commands.
    """
    rows, commands = {}, []
    for line in text.splitlines():
        if line.startswith("    msrrec "):
            commands.append(shlex.split(line)[1:])
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        values = [_VALUE.fullmatch(cell) for cell in cells[1:3]]
        if line.startswith("| ") and len(values) == 2 and all(values):
            hit, valid = (match for match in values if match)
            value, low, high = (float(group or hit.group(1)) for group in hit.groups())
            rows[cells[0]] = Row(value, low, high, float(valid.group(1)))
    if not rows or not commands:
        raise DataError(
            f"{name}: {len(rows)} rows and {len(commands)} commands found; expected a table that "
            "msrrec compare wrote"
        )
    return Table(rows, commands)


def fill(
    command: Sequence[str], files: Mapping[str, str | None], out: Path, systems: str | None
) -> list[str]:
    """A command with folders and files in place of their names, and the wanted systems.

    Raises:
        DataError: If a file is needed that is not given.
    """
    places = {"DATASET": out / "dataset", "REASONING": out / "reasoning", "OUT": out / "compare"}
    filled = [str(places.get(word, word)) for word in command]
    for option in ("--interactions", "--items", "--systems"):
        if option not in filled:
            continue
        place = filled.index(option) + 1
        given = systems if option == "--systems" else files[option]
        if option != "--systems" and given is None:
            raise DataError(f"{option}: the table was made from a file; give it with {option}")
        filled[place] = given or filled[place]
    return filled


def judge(old: Row, new: Row | None) -> str:
    """Whether a rebuilt row is the same, within the committed interval, or outside."""
    if new is None:
        return "outside"
    if (new.hit_ratio, new.valid_ratio) == (old.hit_ratio, old.valid_ratio):
        return "same"
    return "within" if old.low <= new.hit_ratio <= old.high else "outside"


def compare(old: Table, new: Table, *, whole: bool) -> list[tuple[str, str]]:
    """Each row's label and verdict; of a part, only the rows that were rebuilt."""
    labels = [label for label in old.rows if whole or label in new.rows]
    return [(label, judge(old.rows[label], new.rows.get(label))) for label in labels]


def show(old: Table, new: Table, verdicts: Sequence[tuple[str, str]]) -> str:
    """The verdicts as a Markdown table."""
    lines = ["| system | committed | rebuilt | |", "|---|---|---|---|"]
    for label, verdict in verdicts:
        row, again = old.rows[label], new.rows.get(label)
        rebuilt = f"{again.hit_ratio:.4f}" if again else "–"
        lines.append(
            f"| {label} | {row.hit_ratio:.4f} [{row.low:.3f}, {row.high:.3f}] | {rebuilt} | "
            f"{verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Rebuild, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--interactions")
    parser.add_argument("--items")
    parser.add_argument("--systems", help="some of the table's systems, with commas between them")
    args = parser.parse_args()
    out = args.out / args.table.stem
    files = {"--interactions": args.interactions, "--items": args.items}
    try:
        old = read_table(args.table.read_text(encoding="utf-8"), str(args.table))
        commands = [fill(command, files, out, args.systems) for command in old.commands]
    except (DataError, OSError) as error:
        parser.error(str(error))
    for command in commands:
        print(shlex.join(["msrrec", *command]), flush=True)
        status = subprocess.run([sys.executable, "-m", "msrrec", *command], check=False).returncode
        if status:
            sys.exit(status)
    rebuilt = out / "compare" / TABLE
    new = read_table(rebuilt.read_text(encoding="utf-8"), str(rebuilt))
    verdicts = compare(old, new, whole=args.systems is None)
    print(show(old, new, verdicts))
    sys.exit(any(verdict == "outside" for _, verdict in verdicts))


if __name__ == "__main__":
    main()
