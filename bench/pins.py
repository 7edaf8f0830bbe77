"""Ask the package index for every pin of both images, without downloading the packages.

    python -m bench.pins

Prints for each file of pins how many there are and whether the index has them all for Linux and
this Python. It needs ``uv`` and the index; without one of them it says so and ends with code 3.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("requirements/cpu.txt", "requirements/gpu.txt")
NO_ANSWER = 3


def read_pins(path: Path) -> list[str]:
    """The pins of a file, ``name==version``."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def ask_index(path: Path) -> subprocess.CompletedProcess[str]:
    """Resolve exactly the pins of a file: each must exist as it stands, and nothing else."""
    options = ["--no-deps", "--no-header", "--no-annotate", "--python-version", "3.11"]
    command = ["uv", "pip", "compile", *options, "--python-platform", "x86_64-unknown-linux-gnu"]
    return subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)


def check(name: str) -> int:
    """Print a file's line; 0 where the index has all its pins, else 1 or ``NO_ANSWER``."""
    answer = ask_index(ROOT / name)
    if answer.returncode == 0:
        print(f"{name}: the index has all of its {len(read_pins(ROOT / name))} pins")
        return 0
    if "No solution found" in answer.stderr:
        print(f"{name}: the index lacks a pin: {answer.stderr.strip()}")
        return 1
    print(f"{name}: the index gave no answer: {answer.stderr.strip()}")
    return NO_ANSWER


def main() -> int:
    """Print a line for each file; the worst of their codes."""
    if shutil.which("uv") is None:
        print("uv is not installed, so no pin was looked for: pip install uv")
        return NO_ANSWER
    return max(check(name) for name in FILES)


if __name__ == "__main__":
    sys.exit(main())
