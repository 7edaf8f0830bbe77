"""Processes that take runs in turns, and the files of what is finished, for ``real_backbone``."""

import json
import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.real_specs import REASONS, Answers, Place, Spec
from msrrec import storage
from msrrec.evaluation.hits import HITS

_WRITE_EVERY_S = 8.0

OUTPUTS = pa.schema(
    [
        ("run", pa.string()),
        ("side", pa.string()),
        ("example_id", pa.string()),
        ("index", pa.int32()),
        ("perplexity", pa.float32()),
        ("perplexity_output", pa.float32()),
        ("num_tokens", pa.int32()),
        ("candidate_logprobs", pa.list_(pa.float32())),
        ("text", pa.string()),
    ]
)
SCHEMAS = {"hits": HITS, "outputs": OUTPUTS}
"""By name of the file."""


class Store:
    """The files of a folder; what is there already is kept.

    A run takes the place of an earlier one with the same dataset, arm, order and seed, whose rows
    may be there because a call was killed before it listed the run, or because other settings were
    chosen since.

    Attributes:
        runs: The facts of finished runs, by name.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._tables: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}
        self.runs: dict[str, dict[str, Any]] = {}
        if (folder / "runs.jsonl").exists():
            lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
            self.runs = {row["name"]: row for row in map(json.loads, lines)}
            for name, schema in SCHEMAS.items():
                file = folder / f"{name}.parquet"
                if file.exists():
                    self._tables[name].append(storage.read_table(str(file), schema))
        self._written = time.monotonic()
        self._pending: list[dict[str, Any]] = []

    def add(self, spec: Spec, answers: Answers) -> None:
        """Keep a run; users' rows only of test runs."""
        found: dict[str, list[bool]] = {}
        for row in answers.rows:
            found.setdefault(row["reading"], []).append(row["hit"])
        ratios = {name: round(sum(hits) / len(hits), 4) for name, hits in found.items()}
        facts = {"name": spec.name, **answers.facts, "hit_ratio": ratios}
        self.runs[spec.name] = facts
        self._pending.append(facts)
        if spec.split == "test":
            names = {"dataset": spec.dataset, "arm": spec.kind, "order": spec.order}
            self._replace("hits", {**names, "seed": spec.seed}, answers.rows)
            self._replace("outputs", {"run": spec.name}, answers.outputs)
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()

    def _replace(
        self, name: str, cell: Mapping[str, str | int], rows: list[dict[str, Any]]
    ) -> None:
        """Put rows in the place of those of a table that have these values."""
        kept = []
        for table in self._tables[name]:
            equal = (pc.equal(table[column], value) for column, value in cell.items())
            kept.append(table.filter(pc.invert(reduce(pc.and_, equal))))
        self._tables[name] = [*kept, pa.Table.from_pylist(rows, SCHEMAS[name])]

    def write(self) -> None:
        """Write all that is finished; tables are renamed into place before the runs are listed."""
        for name, tables in self._tables.items():
            if tables:
                aside = self.folder / f"{name}.tmp"
                pq.write_table(pa.concat_tables(tables), aside, compression="zstd")
                os.replace(aside, self.folder / f"{name}.parquet")
        with (self.folder / "runs.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in self._pending)
        self._pending, self._written = [], time.monotonic()

    def log(self, text: str) -> None:
        """Keep an error."""
        print(text[-1500:], flush=True)
        with (self.folder / "errors.log").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def work(place: Place, share: float, tasks: Any, results: Any) -> None:
    """A process: runs until it is given None. It ends after an error, and a new one begins."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from bench.real_runs import Bench

    torch.set_num_threads(max(1, int((os.cpu_count() or 1) * share)))
    if place.device != "cpu":
        torch.cuda.set_per_process_memory_fraction(min(1.0, 1.3 * share))
    bench = None
    while (spec := tasks.get()) is not None:
        begin = time.monotonic()
        results.put((spec, os.getpid(), 0.0))
        try:
            bench = bench or Bench(place)
            answers = bench.run(spec)
            results.put((spec, answers, time.monotonic() - begin))
        except Exception:
            results.put((spec, traceback.format_exc(), 0.0))
            results.close()
            results.join_thread()
            os._exit(1)


class Pool:
    """Worker processes; a run that fails is tried once more.

    Args:
        place: Where runs find what they need.
        workers: Number of processes.
        store: Gets what is finished.
        deadline: Value of the monotonic clock at which all ends.
    """

    def __init__(self, place: Place, workers: int, store: Store, deadline: float) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._place, self._share = place, 1 / workers
        self.store, self.deadline = store, deadline
        self._tasks, self._results = self._context.Queue(), self._context.Queue()
        self._processes = [self._start() for _ in range(workers)]
        self._waiting: list[Spec] = []
        self._running: dict[str, Spec] = {}
        self._places: dict[int, str] = {}
        self._failed: dict[str, int] = {}
        self._seconds: dict[tuple[str, bool], float] = {}
        self._begin = time.monotonic()

    def _start(self) -> Any:
        arguments = (self._place, self._share, self._tasks, self._results)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
        self._tasks.cancel_join_thread()
        self.store.write()

    def add(self, specs: Sequence[Spec]) -> None:
        """Queue the runs that are not finished."""
        self._waiting += [spec for spec in specs if spec.name not in self.store.runs]
        self._dispatch()

    def wait(self, specs: Sequence[Spec]) -> None:
        """Wait until each of these is finished, has failed, or can't be started in time."""
        names = {spec.name for spec in specs}
        while names & (self._running.keys() | {spec.name for spec in self._waiting}):
            left = self.deadline - time.monotonic()
            if left <= 0:
                print("time is over", flush=True)
                return
            try:
                self._take(*self._results.get(timeout=min(left, 5.0)))
            except queue.Empty:
                self._fail_dead()
                self._replace_dead()
            self._dispatch()
            if not self._running:
                return

    def _take(self, spec: Spec, found: Answers | str | int, seconds: float) -> None:
        if isinstance(found, int):
            self._places[found] = spec.name
            return
        self._running.pop(spec.name, None)
        self._places = {pid: name for pid, name in self._places.items() if name != spec.name}
        if isinstance(found, str):
            self._fail(spec, found)
            self._replace_dead()
            return
        key = self._key(spec)
        self._seconds[key] = max(seconds, self._seconds.get(key, 0.0))
        self.store.add(spec, found)
        facts = self.store.runs[spec.name]
        shown = {n: facts.get(n) for n in ("train_s", "ask_s", "tokens_per_s", "peak_gib")}
        ratios = {n: x for n, x in facts["hit_ratio"].items() if "lm-" not in n}
        at = time.monotonic() - self._begin
        print(f"{at:.0f} s {spec.name} {json.dumps(shown)} {json.dumps(ratios)}", flush=True)

    @staticmethod
    def _key(spec: Spec) -> tuple[str, bool]:
        """Runs that take about as long."""
        return f"{spec.split}{spec.epochs}{spec.arm == 'untuned'}", spec.arm in REASONS

    def _dispatch(self) -> None:
        """Give out runs while processes are idle and time is left."""
        while self._waiting and len(self._running) < len(self._processes):
            spec = self._waiting.pop(0)
            seconds = self._seconds.get(self._key(spec), 0.0)
            if time.monotonic() + 0.9 * seconds > self.deadline:
                print(f"no time for {spec.name}, which takes {seconds:.0f} s", flush=True)
                continue
            self._running[spec.name] = spec
            self._tasks.put(spec)

    def _fail(self, spec: Spec, reason: str) -> None:
        self.store.log(f"{spec.name} failed:\n{reason}")
        self._failed[spec.name] = self._failed.get(spec.name, 0) + 1
        if self._failed[spec.name] < 2:
            self._waiting.append(spec)

    def _fail_dead(self) -> None:
        """Give up the runs of processes that were killed."""
        for process in self._processes:
            name = self._places.get(process.pid, "")
            if not process.is_alive() and name in self._running:
                self._fail(self._running.pop(name), f"its process ended ({process.exitcode})")

    def _replace_dead(self) -> None:
        """Start a process for each that ended after an error."""
        time.sleep(0.2)
        self._processes = [p if p.is_alive() else self._start() for p in self._processes]
