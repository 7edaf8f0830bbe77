"""Run the benchmarks, keep their results, and write the page from them.

    python -m bench.suite
    python -m bench.suite prepare,synthesis

Each runs in a process of its own, one after the other. One that fails leaves its earlier result.
``speculation`` needs the model and dataset that ``make demo`` makes.
"""

import argparse
import subprocess
import sys

from bench import page
from bench.record import RESULTS

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "batch_lengths": ("bench.batch_lengths", "--rows", "400", "--rounds", "2"),
    "batch_steps": (
        *("bench.batch_lengths", "--rows", "64", "--rounds", "2"),
        *("--layers", "24", "--width", "768", "--at-once", "8"),
    ),
    "inference": ("bench.inference", "--users", "12", "--rounds", "2", "--pipeline-users", "0"),
    "inference_20": (
        *("bench.inference", "--users", "12", "--rounds", "2"),
        *("--candidates", "20", "--pipeline-users", "0"),
    ),
    "speculation": (
        *("bench.speculation", "--model", "runs/demo/model"),
        *("--dataset", "runs/demo/dataset", "--rounds", "6"),
    ),
    "prepare": ("bench.prepare", "--rounds", "3", "--folder", "runs/reviews"),
    "prepare_small": ("bench.prepare_small", "--rounds", "3"),
    "synthesis": ("bench.synthesis", "--seconds", "8"),
    "training": (
        *("bench.training", "--rounds", "2", "--steps", "2", "--no-gradients"),
        *("--systems", "ours", "packed", "packed_kept"),
    ),
    "train_overhead": ("bench.train_overhead", "--rounds", "3", "--steps", "20"),
    "everybody": (
        *("bench.everybody", "--users", "300"),
        *("--rounds", "2", "--model", "embedded"),
    ),
    "everybody_stand_in": ("bench.everybody", "--users", "5000", "--rounds", "3"),
    "ahead": ("bench.ahead", "--rounds", "2"),
    "serving": (
        *("bench.serving", "--parts", "capacity,latency", "--seconds", "15"),
        *("--label", "one engine"),
    ),
    "serving_apart": (
        *("bench.serving", "--parts", "capacity,latency", "--seconds", "15", "--rate", "9"),
        *("--order", "ours,peer", "--set", "serve.share_engine=false"),
        *("--label", "an engine a side"),
    ),
    "serving_two": (
        *("bench.serving", "--parts", "capacity,latency", "--seconds", "30"),
        *("--set", "serve.min_replicas=2", "--set", "serve.max_replicas=2"),
        *("--label", "two engines"),
    ),
    "serving_two_request": (
        *("bench.serving", "--parts", "capacity,latency", "--seconds", "30"),
        *("--set", "serve.min_replicas=2", "--set", "serve.max_replicas=2"),
        *("--split", "request", "--label", "both sides to one of the peer's servers"),
    ),
    "serving_real": (
        *("bench.serving", "--parts", "capacity,latency", "--seconds", "40"),
        *("--model", "smollm2-135m", "--clients", "16", "--max-new-tokens", "64"),
        *("--kv-cache-gib", "0.5", "--label", "SmolLM2-135M"),
        *("--set", "serve.min_replicas=2", "--set", "serve.max_replicas=2"),
    ),
    "serving_real_request": (
        *("bench.serving", "--parts", "capacity,latency", "--seconds", "40"),
        *("--model", "smollm2-135m", "--clients", "16", "--max-new-tokens", "64"),
        *("--kv-cache-gib", "0.5", "--set", "serve.min_replicas=2"),
        *("--set", "serve.max_replicas=2", "--split", "request"),
        *("--label", "SmolLM2-135M, both sides to one of the peer's servers"),
    ),
    "serving_overload": ("bench.serving", "--parts", "overload", "--seconds", "15"),
    "rectools_speed": ("bench.rectools_speed", "--rounds", "2"),
}
"""Module and options by the name of the result."""


def main() -> None:
    """Run some or all; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="?", default=",".join(BENCHMARKS), help="some, with commas")
    names = parser.parse_args().names.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"bench: no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    failed = []
    for name in names:
        command = [
            sys.executable,
            "-m",
            *BENCHMARKS[name],
            "--result",
            str(RESULTS / f"{name}.json"),
        ]
        print(f"bench: {name}", file=sys.stderr, flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    page.main()
    if failed:
        sys.exit(f"bench: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
