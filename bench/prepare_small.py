"""Time ``msrrec prepare`` as a user starts it, on 10,000 rows.

    python -m bench.prepare_small --rounds 3

The whole command with the start of Python counts. Beside it stands a process that only imports what
any such command needs: numpy, pyarrow and polars.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import Aim, Result, Row, add_option, keep

NUM_ROWS, NUM_USERS, NUM_ITEMS = 10_000, 1_000, 800
IMPORTS = "import numpy, polars, pyarrow.compute, pyarrow.parquet"


def write_shop(folder: Path) -> None:
    """Two files of CSV: purchases and titles."""
    rng = random.Random(0)
    rows = [
        f"u{n % NUM_USERS},i{rng.randrange(NUM_ITEMS)},{1_500_000_000 + n * 60}"
        for n in range(NUM_ROWS)
    ]
    titles = [f"i{n},Thing number {n} of the shop" for n in range(NUM_ITEMS)]
    (folder / "purchases.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (folder / "items.csv").write_text("\n".join(["item_id,title", *titles]))


def time_command(*command: str) -> float:
    """Wall seconds of a process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    args = parser.parse_args()
    ours, imports = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shop(folder)
        files = [f"--interactions={folder}/purchases.csv", f"--items={folder}/items.csv"]
        for n in range(args.rounds):
            command = ["prepare", "--source", "table", *files, "--out", str(folder / str(n))]
            settings = ["data.num_users=0"]
            ours.append(time_command(sys.executable, "-m", "msrrec", *command, *settings))
            imports.append(time_command(sys.executable, "-c", IMPORTS))
    floor = f"{min(imports):.2f} s, importing numpy, pyarrow and polars"
    row = Row(
        "`msrrec prepare` of 10,000 rows", ours, (), "", "s", aim=Aim("at most", 5), floor=floor
    )
    keep(args.result, Result([row], args.rounds, ("polars",)))
    print(f"{ours} s; imports alone {imports} s")


if __name__ == "__main__":
    main()
