"""Time ``synthesize`` against a teacher of known latency, and count what it asks beyond tau.

    python -m bench.synthesis --seconds 15

The ideal is the sum of the latencies over the calls in flight. ``steady`` is wall time over it from
the first call until the last one begins, while there is work to hand out; ``whole`` until the last
answer, with the tail in which fewer and fewer calls are left. Extra calls are those that began
after the answer that made tau valid paths. The teacher is a process of its own and its log is the
witness of everything but ``run s``, the whole of ``synthesize`` with the start of its actors.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.stand_in import StandIn, completion, http_reply
from msrrec import schema, storage
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.reasoning.prompts import render_answer, render_output, render_reasoning

MARK = "Bought"
VALID_SHARE = 0.67
NUM_ACTORS = 2


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        tail: Whether latencies are lognormal from 0.2 to 20 s, instead of always 0.2 s.
        tau: Number of valid paths at which to stop; None for all examples.
    """

    in_flight: int
    tail: bool
    tau: int | None = None

    @property
    def name(self) -> str:
        latency = "0.2-20 s" if self.tail else "0.2 s"
        return f"{self.in_flight} x {latency}" + (f", tau {self.tau}" if self.tau else "")


def draw_latency(rng: random.Random, tail: bool) -> float:
    """0.2 s, or lognormal with a median of 1 s, from 0.2 to 20 s."""
    return min(20.0, max(0.2, rng.lognormvariate(0.0, 1.0))) if tail else 0.2


def write_dataset(folder: Path, num_examples: int) -> Dataset:
    """Examples whose target is marked in its title, for the teacher to find."""
    rows, items = [], [{"item_id": "h", "title": "History item", "categories": ["Things"]}]
    for n in range(num_examples):
        titles = [f"Other thing {n}-{k}, black, 2 m" for k in range(6)]
        titles[n % 6] = f"{MARK} thing {n}, black, 2 m"
        ids = [f"i{n}-{k}" for k in range(6)]
        items += [
            {"item_id": i, "title": t, "categories": ["Things"]}
            for i, t in zip(ids, titles, strict=True)
        ]
        rows.append(
            {
                "example_id": f"e{n}",
                "user_id": f"u{n}",
                "history": ["h"] * 10,
                "target": ids[n % 6],
                "candidates": ids,
            }
        )
    for name, columns, table in (
        ("items", schema.ITEMS, items),
        ("train", schema.EXAMPLES, rows),
    ):
        storage.write_table(
            str(folder / f"{name}.parquet"), pa.Table.from_pylist(table, schema=columns)
        )
    manifest = {"schema_version": 1, "domain": "Shop", "fingerprint": str(num_examples)}
    storage.write_json(str(folder / "manifest.json"), manifest)
    return Dataset.load(str(folder))


def teach(prompt: str, rng: random.Random) -> tuple[bytes, str]:
    """A chain that names the marked candidate, or, for a known share, the one beside it."""
    lines = [line for line in prompt.splitlines() if line.startswith("(")]
    titles = [line.partition(") ")[2] for line in lines]
    target = next(n for n, title in enumerate(titles) if title.startswith(MARK))
    is_valid = rng.random() < VALID_SHARE
    choice = target if is_valid else (target + 1) % len(titles)
    steps = [f"The user buys things, and number {k} says so. " * 6 for k in range(4)]
    reasoning = render_reasoning("full", (*steps, f"({choice + 1}) {titles[choice]}. It fits."))
    text = render_output(reasoning, render_answer(titles[choice], choice, "number_title"))
    body = json.dumps(completion(text)).encode()
    return http_reply(200, body), "valid" if is_valid else "invalid"


def serve_teacher(tail: bool, pipe: Any) -> None:
    """The teacher's process: sends its port through the pipe, and its log on request."""

    async def main() -> None:
        rng, stop = random.Random(0), asyncio.Event()

        async def respond(number: int, prompt: str) -> tuple[bytes, str]:
            answer = teach(prompt, rng)
            await asyncio.sleep(draw_latency(rng, tail))
            return answer

        teacher = StandIn(respond)
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.fileno(), stop.set)
        await teacher.serve(0, lambda: pipe.send(teacher.port), stop)
        pipe.send([(call.begin_s, call.end_s, call.kind) for call in teacher.calls])

    asyncio.run(main())


@contextlib.contextmanager
def teacher_process(tail: bool) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """Address of the teacher, and its log, which is filled when the block ends."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve_teacher, args=(tail, theirs)
    )
    process.start()
    log: list[tuple[float, float, str]] = []
    yield f"http://127.0.0.1:{ours.recv()}/v1", log
    ours.send("end")
    log += ours.recv()
    process.join(10)


def measure(case: Case, seconds: float, folder: Path) -> dict[str, float]:
    """One run of ``synthesize``."""
    from msrrec.synthesis.synthesize import synthesize

    rng = random.Random(1)
    mean_s = sum(draw_latency(rng, case.tail) for _ in range(20_000)) / 20_000
    num_examples = max(int(seconds * case.in_flight / mean_s), 2 * (case.tau or 0))
    dataset = write_dataset(folder / "dataset", num_examples)
    with teacher_process(case.tail) as (url, log):
        config = load_config(
            None,
            [
                *(f"teacher.base_url={url}", "teacher.model=stand-in"),
                f"teacher.concurrency={case.in_flight // NUM_ACTORS}",
                f"synthesis.num_actors={NUM_ACTORS}",
                f"synthesis.tau={case.tau or 'null'}",
            ],
        )
        begin = time.monotonic()
        synthesize(dataset, str(folder / "out"), config)
        end = time.monotonic()  # the same clock as the teacher's event loop
    return {"run_s": end - begin, **ratios(log, case, end)}


def ratios(log: list[tuple[float, float, str]], case: Case, end_s: float) -> dict[str, float]:
    """Wall time over the ideal, and the number of calls begun after tau, from the teacher's log."""
    first = min(begin for begin, _, _ in log)
    last_begin = max(begin for begin, _, _ in log)
    last_end = max(end for _, end, _ in log)
    busy = sum(end - begin for begin, end, _ in log)
    steady = sum(min(end, last_begin) - begin for begin, end, _ in log)
    found = {
        "calls": len(log),
        "ideal_s": busy / case.in_flight,
        "steady": (last_begin - first) * case.in_flight / steady,
        "whole": (last_end - first) * case.in_flight / busy,
    }
    if case.tau is not None:
        valid = sorted(end for _, end, kind in log if kind == "valid")
        reached = valid[case.tau - 1]
        found["extra"] = sum(begin > reached for begin, _, _ in log)
        found["after_s"] = end_s - reached
    return found


CASES = [
    Case(64, tail=False),
    Case(256, tail=False),
    Case(64, tail=True),
    Case(256, tail=True),
    Case(64, tail=False, tau=1000),
    Case(256, tail=False, tau=1000),
    Case(64, tail=True, tau=500),
]


def main() -> None:
    """Measure every case once and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="ideal length of a case")
    args = parser.parse_args()
    import ray

    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    from msrrec.cluster import quiet_ray_data

    quiet_ray_data()
    logging.getLogger("msrrec").setLevel("WARNING")
    print(
        f"{'in flight, latency':26}{'calls':>7}{'ideal s':>9}{'steady':>8}{'whole':>8}{'run s':>7}"
    )
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(case, args.seconds, Path(folder))
        line = f"{case.name:26}{row['calls']:7.0f}{row['ideal_s']:9.1f}{row['steady']:8.3f}"
        line += f"{row['whole']:8.3f}" if case.tau is None else f"{'-':>8}"
        line += f"{row['run_s']:7.1f}"
        if case.tau is not None:
            line += f"   {row['extra']:.0f} extra calls, done {row['after_s']:.2f} s after tau"
        print(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
