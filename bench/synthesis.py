"""Time ``synthesize`` against a teacher of known latency, and count what it asks beyond tau.

    python -m bench.synthesis --seconds 15

The ideal is the sum of the latencies over the calls in flight. ``steady`` is wall time over it from
the first call until the last one begins, while there is work to hand out; ``whole`` until the last
answer, with the tail in which fewer and fewer calls are left. Extra calls are those that began
after the answer that made tau valid paths. The teacher is a process of its own and its log is the
witness of everything but ``run s``, the whole of ``synthesize`` with the start of its actors. The
floor of a case is the bare client: two processes that post the same prompts with aiohttp, as many
at once, read the answers' texts and do nothing else, against the same teacher on the same cores.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pyarrow as pa

from bench.record import Aim, Result, Row, Table, add_option, keep
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


class ActorTimes:
    """Processor seconds of the teachers' actors, read from time to time while a run goes on."""

    def __init__(self) -> None:
        self._samples: dict[int, list[tuple[float, float]]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(0.2):
            for process in psutil.process_iter(["name", "cpu_times"]):
                used = process.info["cpu_times"]
                if "TeacherActor" in (process.info["name"] or "") and used:
                    sample = time.monotonic(), used.user + used.system
                    self._samples.setdefault(process.pid, []).append(sample)

    def since(self, begin: float) -> float:
        """Seconds that all of them used after a time of the clock ``monotonic``."""
        self._end.set()
        self._thread.join()
        used = 0.0
        for samples in self._samples.values():
            before = [cpu_s for at, cpu_s in samples if at <= begin]
            used += samples[-1][1] - (before[-1] if before else 0.0)
        return used


def ask_bare(url: str, prompts: list[str], in_flight: int, used: Any) -> None:
    """Post prompts with aiohttp alone, so many at once; run in a process of its own."""

    async def main() -> None:
        waiting, parameters = iter(prompts), {"temperature": 0.6, "max_tokens": 4096}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def client() -> None:
                for prompt in waiting:
                    messages = [{"role": "user", "content": prompt}]
                    body = {"model": "stand-in", "messages": messages, **parameters}
                    async with session.post(f"{url}/chat/completions", json=body) as response:
                        (await response.json())["choices"][0]["message"]["content"]

            await asyncio.gather(*(client() for _ in range(in_flight)))

    begin = time.process_time()
    asyncio.run(main())
    used.put(time.process_time() - begin)


def measure_bare(case: Case, prompts: list[str]) -> dict[str, float]:
    """The bare client on prompts that ``synthesize`` sent."""
    share = case.in_flight // NUM_ACTORS
    context = multiprocessing.get_context("spawn")
    used = context.Queue()
    with teacher_process(case.tail) as (url, log):
        clients = [
            context.Process(target=ask_bare, args=(url, prompts[n::NUM_ACTORS], share, used))
            for n in range(NUM_ACTORS)
        ]
        for client in clients:
            client.start()
        cpu_s = sum(used.get() for _ in clients)
        for client in clients:
            client.join()
    found = ratios(log, case, time.monotonic())
    return found | {"cpu_ms": 1000 * cpu_s / found["calls"]}


def count_examples(case: Case, seconds: float) -> int:
    """Number of examples that take so many seconds at best."""
    rng = random.Random(1)
    mean_s = sum(draw_latency(rng, case.tail) for _ in range(20_000)) / 20_000
    return max(int(seconds * case.in_flight / mean_s), 2 * (case.tau or 0))


def measure(case: Case, seconds: float, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """One run of ``synthesize``, and one of the bare client."""
    from msrrec.synthesis.requests import build_requests
    from msrrec.synthesis.synthesize import synthesize

    dataset = write_dataset(folder / "dataset", count_examples(case, seconds))
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
        begin, times = time.monotonic(), ActorTimes()
        synthesize(dataset, str(folder / "out"), config)
        end = time.monotonic()  # the same clock as the teacher's event loop
    prompts = list(build_requests(dataset, config).iter_prompts())
    ours = {"run_s": end - begin, **ratios(log, case, end)}
    ours["cpu_ms"] = 1000 * times.since(min(begin for begin, _, _ in log)) / ours["calls"]
    return ours, {} if case.tau else measure_bare(case, prompts)


def measure_parts(num_examples: int = 1000) -> dict[str, float]:
    """Processor milliseconds a call of what an actor does besides the exchange."""
    from msrrec.chat.completions import read_completion
    from msrrec.synthesis.journal import JournalEntry, Sampling
    from msrrec.synthesis.requests import build_requests

    found, begin, rng = {}, 0.0, random.Random(0)

    def lap(name: str) -> None:
        nonlocal begin
        found[name] = 1000 * (time.process_time() - begin) / num_examples
        begin = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), num_examples)
        mapping = build_requests(dataset, load_config(None, []))
        begin = time.process_time()
        requests = list(mapping.values())
        lap("build the request")
        raws = [teach(request.prompt, rng)[0].partition(b"\r\n\r\n")[2] for request in requests]
        begin = time.process_time()
        answers = [
            read_completion(json.loads(raw), raw, request.prompt, 0.2)
            for raw, request in zip(raws, requests, strict=True)
        ]
        lap("read the answer")
        sampling = Sampling("stand-in", 0.6, 4096)
        entries = [
            JournalEntry(
                **{"example_id": request.example_id, "attempt": 0, "sampling": sampling},
                **{"prompt_hash": request.prompt_hash, "tries": 1, "answered_at_s": 0.0},
                **vars(answer),
            )
            for request, answer in zip(requests, answers, strict=True)
        ]
        lines = [entry.to_line() for entry in entries]
        assert all(lines)
        lap("write its line of the journal")
        kept = [r.judge(entry).verdict for r, entry in zip(requests, entries, strict=True)]
        assert "kept" in kept
        lap("judge it")
    return found


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
Found = dict[str, list[tuple[dict[str, float], dict[str, float]]]]
"""Ours and the bare client's figures of every round, by the name of the case."""


def measure_all(cases: list[Case], seconds: float, rounds: int) -> Found:
    """Every case in every round."""
    found: Found = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                ours, bare = measure(case, seconds, Path(folder))
            print(case.name, json.dumps([ours, bare]), file=sys.stderr, flush=True)
            found[case.name].append((ours, bare))
    return found


def describe(found: Found, parts: dict[str, float]) -> Result:
    """What is kept of the measurements."""
    rows, body = [], []
    for name, rounds in found.items():
        ours, bare = ([pair[side] for pair in rounds] for side in (0, 1))
        told = {key: statistics.median(r[key] for r in ours) for key in ours[0]}
        extra = f"{told['extra']:.0f}, {told['after_s']:.2f} s" if "extra" in told else ""
        cells = [f"{told['steady']:.3f}", f"{told['whole']:.3f}", f"{told['cpu_ms']:.2f}", extra]
        if not bare[0]:
            body.append([name, f"{told['calls']:.0f}", *cells, "", ""])
            continue
        floor = {key: statistics.median(r[key] for r in bare) for key in bare[0]}
        bare_cells = [f"{floor['steady']:.3f}", f"{floor['cpu_ms']:.2f}"]
        body.append([name, f"{told['calls']:.0f}", *cells, *bare_cells])
        steady = [r["steady"] for r in ours]
        rows += [
            Row(
                f"synthesis, {name}: time over the ideal",
                steady,
                (),
                "",
                "",
                aim=Aim("at most", 1.25),
                floor=f"{floor['steady']:.3g}, aiohttp alone",
            ),
            Row(
                f"synthesis, {name}: processor time of a call",
                [r["cpu_ms"] for r in ours],
                (),
                "",
                "ms",
                aim=Aim("at most", 0.5),
                floor=f"{floor['cpu_ms']:.2g} ms, aiohttp alone",
                is_headline=name == Case(256, tail=False).name,
            ),
        ]
    heads = (
        "in flight, latency",
        "calls",
        "steady",
        "whole",
        "ms a call",
        "calls and time after τ",
    )
    table = Table((*heads, "bare: steady", "bare: ms a call"), body)
    of_parts = Table(
        ("part of a call", "processor ms"), [[name, f"{ms:.2f}"] for name, ms in parts.items()]
    )
    tables = {"cases": table, "parts": of_parts}
    return Result(rows, len(rounds), ("aiohttp", "ray"), tables)


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="ideal length of a case")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", help="places in the list of cases, with commas; default: all")
    add_option(parser)
    args = parser.parse_args()
    import ray

    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    from msrrec.cluster import quiet_ray_data

    quiet_ray_data()
    logging.getLogger("msrrec").setLevel("WARNING")
    cases = [CASES[int(n)] for n in args.cases.split(",")] if args.cases else CASES
    result = describe(measure_all(cases, args.seconds, args.rounds), measure_parts())
    keep(args.result, result)
    for row in (*result.tables["cases"].rows, *result.tables["parts"].rows):
        print("  ".join(f"{cell:>14}" for cell in row))


if __name__ == "__main__":
    main()
