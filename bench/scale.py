"""Measure how memory and time grow with the number of users, with stand-ins for models.

    python -m bench.scale --stage evaluate --users 1000 10000 100000

Each number of users is a process of its own, whose peak memory (resident set) is measured. Workers
of Ray are processes of their own and do not count: the column is the driver's. Its growth is that
over the first number of users of the same stage, where imported modules take nearly all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_COLUMNS = "| stage | users | driver's peak, MiB | growth, bytes a user | seconds | files | MB |"


@dataclass(frozen=True)
class Measured:
    """What one stage took for one number of users.

    Attributes:
        peak_mib: The driver's largest resident set.
        num_files: Files in the folder that the stage wrote.
        written_mb: Their size in millions of bytes.
    """

    stage: str
    num_users: int
    peak_mib: float
    seconds: float
    num_files: int
    written_mb: float

    def row(self, first: "Measured") -> str:
        """A line of the table; growth is that over the first measurement of the same stage."""
        more = self.num_users - first.num_users
        growth = f"{(self.peak_mib - first.peak_mib) * 2**20 / more:,.0f}" if more else ""
        cells = (self.seconds, self.num_files, self.written_mb)
        shown = " | ".join(f"{cell:,.0f}" for cell in cells)
        return f"| {self.stage} | {self.num_users:,} | {self.peak_mib:,.0f} | {growth} | {shown} |"


def measure(stage: str, num_users: int) -> Measured:
    """One stage in a process of its own; another process makes its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        _call(stage, num_users, folder, "--make")
        lines = _call(stage, num_users, folder, "--run").splitlines()
        return Measured(**json.loads(lines[-1]))


def _call(stage: str, num_users: int, folder: str, step: str) -> str:
    command = [sys.executable, "-m", "bench.scale", "--stage", stage, "--users", str(num_users)]
    done = subprocess.run([*command, step, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def run_stage(stage: str, num_users: int, folder: Path) -> Measured:
    """Run a stage in this process."""
    from bench.scale_stages import STAGES

    begin = time.monotonic()
    STAGES[stage].run(folder)
    seconds, peak = time.monotonic() - begin, peak_mib()
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    return Measured(stage, num_users, peak, seconds, len(files), size)


def peak_mib() -> float:
    """The largest resident set of this process so far; Linux only.

    ``getrusage`` would count the parent's before this program was loaded.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def write_json(path: Path, found: Sequence[Measured]) -> None:
    """All measurements as JSON."""
    path.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


def main() -> None:
    """Print a table with a row for each stage and number of users."""
    from bench.scale_stages import STAGES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=list(STAGES), nargs="+", default=list(STAGES))
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, help="file of JSON to write")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        STAGES[given.stage[0]].make(given.make, given.users[0])
        return
    if given.run:
        print(json.dumps(asdict(run_stage(given.stage[0], given.users[0], given.run))))
        return
    print(_COLUMNS)
    print("|---" * _COLUMNS.count(" | ") + "|---|")
    found: list[Measured] = []
    for stage in given.stage:
        first = len(found)
        for num_users in given.users:
            found.append(measure(stage, num_users))
            print(found[-1].row(found[first]), flush=True)
            if given.out:
                write_json(given.out, found)


if __name__ == "__main__":
    main()
