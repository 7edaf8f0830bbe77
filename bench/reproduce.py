"""Rebuild a committed table with the commands that it names, and compare row by row.

    python -m bench.reproduce tables/amazon2014-toys.md --out runs/reproduce \
      --interactions interactions.csv.gz --items items.csv.gz --systems random,popularity,bm25-mean

A row is the "same" if HitRatio@1 and ValidRatio have equal digits, as those of systems that train
nothing should have, and "within" if each lies in the 95% interval of the committed one, as far as
the table has one. In the table of a study that interval is for other users and other seeds, in
others for other users. Anything else, a missing row included, is "outside", and the exit status is
1. What is finished under ``--out`` is not run again. ``--systems`` rebuilds some of the rows alone.
A table may come from several ``msrrec compare`` commands, whose rows are put together. In a table
with the arms of several datasets, a row's label begins with its dataset. Where the table names its
data and they are others now, a line says so: the file is another, or this version draws the lists
in another way.
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

TABLES = {"compare": "compare/report/table.md", "study": "study/table.md"}
"""Where a command that makes a table puts it."""
_VALUE = re.compile(r"(\d\.\d+)(?: \[(\d\.\d+), (\d\.\d+)\])?")
_DATA = re.compile(r"\b(?:Dataset|Data:) ([\w, -]+);")
_COLUMNS = ({"HitRatio@1"}, {"ValidRatio", "valid"})


@dataclass(frozen=True)
class Figure:
    """A share with its interval; the interval is the share itself where the table has none."""

    value: float
    low: float
    high: float

    @classmethod
    def read(cls, cell: str) -> "Figure | None":
        """The figure of a cell, such as ``0.5350 [0.486, 0.583]``; None if it holds none."""
        match = _VALUE.fullmatch(cell)
        return match and cls(*(float(group or match.group(1)) for group in match.groups()))

    def holds(self, value: float) -> bool:
        """Whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Row:
    """HitRatio@1 and ValidRatio of one system or arm."""

    hit_ratio: Figure
    valid_ratio: Figure


@dataclass(frozen=True)
class Table:
    """A table as ``msrrec compare`` or ``msrrec study`` writes it.

    Attributes:
        rows: By label, which begins with the heading if rows stand below several headings.
        commands: Those that made it.
        failed: Systems that have no figures because they failed.
        data: What it says of its data, the beginning of fingerprints; empty if nothing.
    """

    rows: Mapping[str, Row]
    commands: Sequence[Sequence[str]]
    failed: frozenset[str] = frozenset()
    data: str = ""


def read_table(text: str, name: str) -> Table:
    """The rows and commands of a Markdown table.

    Args:
        text: The file's content.
        name: For errors.

    Raises:
        DataError: If it has no rows, or no commands.
    """
    lines = text.splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("    msrrec ")]
    rows: dict[tuple[str, str], Row] = {}
    failed, columns, section = set(), [], ""
    for line in lines:
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| "):
            continue
        if any(cell in _COLUMNS[0] for cell in cells):
            columns = [n for names in _COLUMNS for n, cell in enumerate(cells) if cell in names]
        elif cells[1].startswith("failed: "):
            failed.add(cells[0])
        elif len(columns) == len(_COLUMNS) and max(columns) < len(cells):
            figures = [Figure.read(cells[n]) for n in columns]
            found = [figure for figure in figures if figure]
            if len(found) == len(columns):
                rows[section, cells[0]] = Row(*found)
    if not (rows or failed) or not commands:
        raise DataError(
            f"{name}: {len(rows)} rows and {len(commands)} commands found; expected a table that "
            "msrrec compare or msrrec study wrote"
        )
    data = _DATA.search(text)
    has_several = len({section for section, _ in rows}) > 1
    by_label = {f"{part}: {n}" if has_several else n: row for (part, n), row in rows.items()}
    return Table(by_label, commands, frozenset(failed), data.group(1) if data else "")


def fill(
    command: Sequence[str], files: Mapping[str, str | None], out: Path, systems: str | None
) -> list[str] | None:
    """A command with folders and files in place of their names, and the wanted systems of its own.

    None if it compares systems and none of them is wanted, or makes a dataset that is given.

    Raises:
        DataError: If a file is needed that is not given.
    """
    made = out / ("study" if command[0] == "study" else "compare")
    places = {"DATASET": out / "dataset", "REASONING": out / "reasoning", "OUT": made}
    filled = [str(places.get(word, word)) for word in command]
    named = [n for n, word in enumerate(command) if word in ("--dataset", "--out")]
    for n in (place + 1 for place in named if command[place + 1] not in places):
        filled[n] = files["--dataset"] or str(out / command[n])  # a dataset of a study
        if command[0] == "prepare" and files["--dataset"]:
            return None
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


def check_dataset(commands: Sequence[Sequence[str]], dataset: str | None) -> None:
    """Check that each dataset of a study is given, or made by a command of the table.

    Raises:
        DataError: If one is not.
    """
    named = [
        command[n + 1]
        for command in commands
        for n, word in enumerate(command)
        if word == "--dataset" and command[0] == "study"
    ]
    made = [command[command.index("--out") + 1] for command in commands if command[0] == "prepare"]
    if missing := [name for name in named if name not in made and not dataset]:
        raise DataError(
            f"--dataset: the table has no command for the dataset {missing[0]}; expected a folder "
            "made by `msrrec prepare`"
        )


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
    data = ""
    for command in commands:
        print(shlex.join(["msrrec", *command]), flush=True)
        rebuilt = out / TABLES.get(command[0], "none")
        rebuilt.unlink(missing_ok=True)
        status = subprocess.run([sys.executable, "-m", "msrrec", *command], check=False).returncode
        if rebuilt.exists():  # the status is 1 if a system failed, which is a row of the table
            found = read_table(rebuilt.read_text(encoding="utf-8"), str(rebuilt))
            rows, failed, data = {**rows, **found.rows}, failed | found.failed, found.data
        elif status or command[0] in TABLES:
            sys.exit(status or 1)
    return Table(rows, commands, failed, data)


def judge(old: Row, new: Row | None) -> str:
    """Whether a rebuilt row is the same, within the committed intervals, or outside."""
    if new is None:
        return "outside"
    hit, valid = new.hit_ratio.value, new.valid_ratio.value
    if (hit, valid) == (old.hit_ratio.value, old.valid_ratio.value):
        return "same"
    has_range = old.valid_ratio.low < old.valid_ratio.high
    is_valid = not has_range or old.valid_ratio.holds(valid)
    return "within" if old.hit_ratio.holds(hit) and is_valid else "outside"


def compare(old: Table, new: Table, *, whole: bool) -> list[tuple[str, str]]:
    """Each row's label and verdict; of a part, only the rows that were rebuilt or failed."""
    labels = [label for label in old.rows if whole or label in new.rows or label in new.failed]
    return [(label, judge(old.rows[label], new.rows.get(label))) for label in labels]


def show(old: Table, new: Table, verdicts: Sequence[tuple[str, str]]) -> str:
    """The verdicts as a Markdown table."""
    lines = ["| system | committed | rebuilt | valid | rebuilt | |", "|---|---|---|---|---|---|"]
    for label, verdict in verdicts:
        hit, valid = old.rows[label].hit_ratio, old.rows[label].valid_ratio
        again = new.rows.get(label)
        hit_again = f"{again.hit_ratio.value:.4f}" if again else "–"
        valid_again = f"{again.valid_ratio.value:.4f}" if again else "–"
        lines.append(
            f"| {label} | {hit.value:.4f} [{hit.low:.3f}, {hit.high:.3f}] | {hit_again} | "
            f"{valid.value:.4f} | {valid_again} | {verdict} |"
        )
    if old.data and new.data and old.data != new.data:
        lines += ["", f"The data are others: {old.data} in the table, {new.data} here."]
    return "\n".join(lines)


def main() -> None:
    """Rebuild, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--interactions")
    parser.add_argument("--items")
    parser.add_argument("--dataset", help="a prepared folder, for a study that names no files")
    parser.add_argument("--systems", help="some of the table's systems, with commas between them")
    args = parser.parse_args()
    out = args.out / args.table.stem
    files = {name: getattr(args, name[2:]) for name in ("--interactions", "--items", "--dataset")}
    try:
        old = read_table(args.table.read_text(encoding="utf-8"), str(args.table))
        check_dataset(old.commands, args.dataset)
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
