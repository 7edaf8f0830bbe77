"""Rebuild a committed table with the commands that it names, and compare row by row.

    python -m bench.reproduce tables/amazon2014-toys.md --out runs/reproduce \
      --interactions interactions.csv.gz --items items.csv.gz --systems random,popularity,bm25-mean

A row is the "same" if HitRatio@1 and ValidRatio are equal to four digits, as those of systems that
train nothing should be, and "within" if the new HitRatio@1 lies in the 95% interval of the
committed one. Anything else, a missing row included, is "outside", and the exit status is 1. What
is finished under ``--out`` is not run again. ``--systems`` rebuilds some of the rows alone. A table
may come from several ``msrrec compare`` commands, whose rows are put together.
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
    """A table as ``msrrec compare`` writes it: rows by label, and the commands that made it.

    ``failed`` names the systems that have no figures because they failed.
    """

    rows: Mapping[str, Row]
    commands: Sequence[Sequence[str]]
    failed: frozenset[str] = frozenset()


def read_table(text: str, name: str) -> Table:
    """The rows and commands of a Markdown table.

    Args:
        text: The file's content.
        name: For errors.

    Raises:
        DataError: If it has no rows, or no commands.
    """
    rows, commands, failed = {}, [], set()
    for line in text.splitlines():
        if line.startswith("    msrrec "):
            commands.append(shlex.split(line)[1:])
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        values = [_VALUE.fullmatch(cell) for cell in cells[1:3]]
        if line.startswith("| ") and len(values) == 2 and all(values):
            hit, valid = (match for match in values if match)
            value, low, high = (float(group or hit.group(1)) for group in hit.groups())
            rows[cells[0]] = Row(value, low, high, float(valid.group(1)))
        elif len(cells) > 1 and cells[1].startswith("failed: "):
            failed.add(cells[0])
    if not (rows or failed) or not commands:
        raise DataError(
            f"{name}: {len(rows)} rows and {len(commands)} commands found; expected a table that "
            "msrrec compare wrote"
        )
    return Table(rows, commands, frozenset(failed))


def fill(
    command: Sequence[str], files: Mapping[str, str | None], out: Path, systems: str | None
) -> list[str] | None:
    """A command with folders and files in place of their names, and the wanted systems of its own.

    None if it compares systems and none of them is wanted.

    Raises:
        DataError: If a file is needed that is not given.
    """
    places = {"DATASET": out / "dataset", "REASONING": out / "reasoning", "OUT": out / "compare"}
    filled = [str(places.get(word, word)) for word in command]
    for option in ("--interactions", "--items"):
        if option in filled:
            given = files[option]
            if given is None:
                raise DataError(f"{option}: the table was made from a file; give it with {option}")
            filled[filled.index(option) + 1] = given
    if systems is None or "--systems" not in filled:
        return filled
    place = filled.index("--systems") + 1
    wanted = systems.split(",")
    filled[place] = ",".join(name for name in filled[place].split(",") if name in wanted)
    return filled if filled[place] else None


def check_wanted(old: Table, systems: str | None) -> None:
    """Check that each wanted system is one of the table's.

    Raises:
        DataError: If one is not.
    """
    known = [
        name
        for command in old.commands
        if "--systems" in command
        for name in command[command.index("--systems") + 1].split(",")
    ]
    unknown = [name for name in (systems.split(",") if systems else []) if name not in known]
    if unknown:
        raise DataError(
            f"--systems {unknown[0]}: no system of this table; expected some of {', '.join(known)}"
        )


def rebuild(commands: Sequence[Sequence[str]], out: Path) -> Table:
    """Run commands in order, and put together the rows of all that compare systems.

    Exits with the status of a command that fails and leaves no table.
    """
    rows: dict[str, Row] = {}
    failed: frozenset[str] = frozenset()
    rebuilt = out / "compare" / TABLE
    for command in commands:
        print(shlex.join(["msrrec", *command]), flush=True)
        rebuilt.unlink(missing_ok=True)
        status = subprocess.run([sys.executable, "-m", "msrrec", *command], check=False).returncode
        if rebuilt.exists():  # the status is 1 if a system failed, which is a row of the table
            found = read_table(rebuilt.read_text(encoding="utf-8"), str(rebuilt))
            rows, failed = {**rows, **found.rows}, failed | found.failed
        elif status or command[0] == "compare":
            sys.exit(status or 1)
    return Table(rows, commands, failed)


def judge(old: Row, new: Row | None) -> str:
    """Whether a rebuilt row is the same, within the committed interval, or outside."""
    if new is None:
        return "outside"
    if (new.hit_ratio, new.valid_ratio) == (old.hit_ratio, old.valid_ratio):
        return "same"
    return "within" if old.low <= new.hit_ratio <= old.high else "outside"


def compare(old: Table, new: Table, *, whole: bool) -> list[tuple[str, str]]:
    """Each row's label and verdict; of a part, only the rows that were rebuilt or failed."""
    labels = [label for label in old.rows if whole or label in new.rows or label in new.failed]
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
        check_wanted(old, args.systems)
        commands = [fill(command, files, out, args.systems) for command in old.commands]
    except (DataError, OSError) as error:
        parser.error(str(error))
    new = rebuild([command for command in commands if command], out)
    verdicts = compare(old, new, whole=args.systems is None)
    print(show(old, new, verdicts))
    sys.exit(any(verdict == "outside" for _, verdict in verdicts))


if __name__ == "__main__":
    main()
