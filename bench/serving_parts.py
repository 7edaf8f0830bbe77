"""The parts of ``bench.serving``: what both can do, how long they take, what too much does."""

import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.inference import make_questions
from bench.load import Seen, closed_loop, goodput, open_loop, poisson_times, quantile
from bench.serving_systems import (
    PlainVllm,
    Question,
    Questions,
    System,
    Tree,
    running_peer,
    running_service,
)
from msrrec.config import InferenceConfig, ServeConfig
from msrrec.titles import normalize_title

SYSTEMS = ("ours", "peer")
NUM_CANDIDATES = 6
WARM_S = 5.0
"""Seconds until a closed loop is steady."""
IDLE_S = 2.0
STREAMED_EACH = 5
"""One of so many requests of the open loop is streamed."""
NUM_CHECKED = 20
OVERLOADS = (1.5, 3.0)
FEWER = (1 / 4, 1 / 2, 3 / 4)
"""Shares of the closed loop's clients that are tried too: fewer at once are answered sooner."""
MAX_RATE = 60
"""Requests a second for which there are questions."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        model: As ``msrrec serve`` takes it.
        config: Settings of inference of both systems.
        clients: Number of clients of the closed loop.
        seconds: Length of one measurement.
        share: Load of the open loop, as a share of the lesser capacity.
        order: Names of the systems, one a round.
        logs: Folder of the systems' logs.
        given: Further settings of ``msrrec serve``.
        environment: Variables that only ``msrrec serve`` has.
        split: What is shared among the peer's servers: ``request`` or ``side``.
    """

    model: str
    config: InferenceConfig
    clients: int
    seconds: float
    share: float
    order: tuple[str, ...]
    logs: Path
    given: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    split: str = "side"

    @property
    def num_rounds(self) -> int:
        """Rounds of the system that has most."""
        return max(self.order.count(name) for name in SYSTEMS)

    def settings(self) -> list[str]:
        """The settings of ``msrrec serve``."""
        return [
            f"inference.max_new_tokens={self.config.max_new_tokens}",
            f"inference.kv_cache_gib={self.config.kv_cache_gib}",
            *self.given,
        ]

    def start(self, name: str) -> AbstractContextManager[tuple[System, Tree]]:
        """One of both systems."""
        log = self.logs / f"{name}.log"
        if name == "ours":
            return running_service(self.model, self.settings(), log, self.environment)
        return running_peer(self.model, self.config, self.split, log)


class Pool:
    """Questions of which none is asked of a system twice."""

    def __init__(self, plan: Plan, count: int) -> None:
        self._make = Questions(plan.model, plan.config)
        self._data, self._examples = make_questions(count, NUM_CANDIDATES)
        self._made: dict[int, Question] = {}
        self.next = 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> Question:
        if number not in self._made:
            example = self._examples[number]
            history, candidates = (
                [self._data.items[one].title for one in ids]
                for ids in (example.history, example.candidates)
            )
            self._made[number] = self._make.make(history, candidates, self._data.domain)
        return self._made[number]

    def make(self, numbers: Iterable[int]) -> None:
        """Make questions before any time is taken."""
        for number in numbers:
            _ = self[number].sides  # rendered and tokenized now

    def decide(self, number: int, found: Sequence[Any]) -> str | None:
        """What the peer's outputs would recommend."""
        return self._make.decide(self[number], found)


def measure_capacity(plan: Plan) -> dict[str, Any]:
    """Requests a second of both systems with many clients, system after system."""
    per_round = math.ceil((plan.seconds + WARM_S) * MAX_RATE)
    pool = Pool(plan, plan.num_rounds * per_round)
    rounds: dict[str, list[Row]] = {name: [] for name in SYSTEMS}
    items: dict[int, str | None] = {}
    agreement: Row = {}
    for name, numbers in turns(plan.order):
        with plan.start(name) as (system, tree):
            for number in numbers:
                first = number * per_round
                pool.make(range(first, first + per_round))
                work = _closed(plan, pool, system, tree, first)
                row, seen = asyncio.run(work)
                rounds[name].append(_tell(name, row))
                if name == "ours":
                    items |= {first + n: one.item for n, one in seen.items()}
            if isinstance(system, PlainVllm) and not agreement:
                agreement = asyncio.run(_agree(pool, system, items))
    return {"rounds": rounds, "agreement": agreement}


def measure_latency(plan: Plan, rate: float) -> dict[str, Any]:
    """Seconds of both systems' answers when requests come at random times."""
    times = [poisson_times(rate, plan.seconds, seed) for seed in range(plan.num_rounds)]
    count = max(map(len, times)) + 200
    pool = Pool(plan, plan.num_rounds * count)
    rounds: dict[str, list[Row]] = {name: [] for name in SYSTEMS}
    for name, numbers in turns(plan.order):
        with plan.start(name) as (system, tree):
            for number in numbers:
                pool.make(range(number * count, (number + 1) * count))
                work = _open(plan, pool, system, tree, times[number], number * count)
                rounds[name].append(_tell(name, asyncio.run(work)))
    return {"rate": rate, "rounds": rounds}


def measure_overload(plan: Plan) -> dict[str, Any]:
    """What the service answers in time of more than it can do.

    The peak for a deadline is the most that any number of clients who ask again and again get in
    time: with a short one a full batch would be too slow.
    """
    limits = ServeConfig()
    pool = Pool(plan, 2000 + math.ceil(plan.seconds * MAX_RATE * 20))
    with plan.start("ours") as (system, tree):
        alone = replace(plan, clients=1, seconds=WARM_S)
        service_s = asyncio.run(_closed(alone, pool, system, tree, 0))[0]["p50_s"]
        row, seen = asyncio.run(_closed(plan, pool, system, tree, 1000))
        pool.next = 1000 + len(seen)
        closed = [list(seen.values())]
        for share in FEWER:
            fewer = replace(plan, clients=round(share * plan.clients))
            closed.append(
                list(asyncio.run(_closed(fewer, pool, system, tree, pool.next))[1].values())
            )
            pool.next += len(closed[-1])
        peak = row["requests_per_s"]
        full_line_s = limits.max_queued_requests / peak
        deadlines = {"5 service times": 5 * service_s, "half a full line": full_line_s / 2}
        loads = []
        for label, deadline_s in deadlines.items():
            ends = WARM_S, WARM_S + plan.seconds
            in_time = max(goodput(found, *ends, deadline_s) for found in closed)
            for factor in OVERLOADS:
                work = _flood(plan, pool, system, tree, factor * peak, deadline_s)
                found = asyncio.run(work)
                shown = {"deadline": label, "deadline_s": deadline_s, "load": factor}
                shown |= {"peak_in_time": in_time, "of_peak": found["goodput_per_s"] / in_time}
                loads.append(_tell("ours", {**shown, **found}))
    return {
        "peak": row,
        "service_s": service_s,
        "full_line_s": full_line_s,
        "loads": loads,
    }


def _tell(name: str, row: Row) -> Row:
    """Show a finished measurement, as a run may be cut short."""
    figures = {key: value for key, value in row.items() if not isinstance(value, dict)}
    print(name, json.dumps(figures), file=sys.stderr, flush=True)
    return row


def turns(order: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Which system is started, and its rounds until it is stopped, for the order of all rounds."""
    found: list[tuple[str, list[int]]] = []
    rounds: Counter[str] = Counter()
    for name in order:
        if not found or found[-1][0] != name:
            found.append((name, []))
        found[-1][1].append(rounds[name])
        rounds[name] += 1
    return found


async def _closed(
    plan: Plan, pool: Pool, system: System, tree: Tree, first: int
) -> tuple[Row, dict[int, Seen]]:
    """A closed loop, whose first seconds do not count; what was seen by number after ``first``."""
    numbers, seen = iter(range(first, 10**9)), {}

    async def act(_: int, begin: float) -> Seen:
        number, due = next(numbers), time.perf_counter() - begin
        seen[number - first] = found = await system.ask(client, pool[number], due, begin)
        return found

    async with _client() as client:
        await closed_loop(plan.clients, 0.5, act)  # a first wave
        idle = Costs(tree)
        await asyncio.sleep(IDLE_S)
        idle_row = idle.row(0)
        costs = Costs(tree)
        found = await closed_loop(plan.clients, WARM_S + plan.seconds, act)
    rate = goodput(found, WARM_S, WARM_S + plan.seconds)
    row = {"requests": len(seen), "requests_per_s": rate, **count_bad(found)}
    row |= {"p50_s": quantile([one.seconds for one in found], 0.5)}
    row |= {"idle_cores": idle_row["cores"], "pss_mib": tree.pss_mib(), "niceness": tree.niceness()}
    return {**row, **costs.row(len(found))}, seen


async def _open(
    plan: Plan, pool: Pool, system: System, tree: Tree, times: Sequence[float], first: int
) -> Row:
    """An open loop after a warm-up."""
    warm = iter(range(first + len(times), 10**9))

    async def warm_up(_: int, begin: float) -> Seen:
        due = time.perf_counter() - begin
        return await system.ask(client, pool[next(warm)], due, begin, stream=True)

    async def act(n: int, begin: float) -> Seen:
        stream = n % STREAMED_EACH == 0
        return await system.ask(client, pool[first + n], times[n], begin, stream=stream)

    async with _client() as client:
        await closed_loop(4, WARM_S / 2, warm_up)
        costs = Costs(tree)
        seen = await open_loop(times, act)
        row = costs.row(len(seen))
    return {**describe_latency(seen), "pss_mib": tree.pss_mib(), **row}


async def _flood(
    plan: Plan, pool: Pool, system: System, tree: Tree, rate: float, deadline_s: float
) -> Row:
    """An open loop beyond capacity; the time until its line has its length is left out."""
    begin_s = min(deadline_s, plan.seconds)
    end_s = begin_s + plan.seconds
    times, first = poisson_times(rate, end_s, 2), pool.next
    pool.next += len(times)
    if pool.next > len(pool):
        raise SystemExit(f"too fast for {len(pool)} questions; raise MAX_RATE")

    async def act(n: int, begin: float) -> Seen:
        return await system.ask(client, pool[first + n], times[n], begin, deadline_s=deadline_s)

    async with _client() as client:
        costs = Costs(tree)
        seen = await open_loop(times, act)
    return {**describe_flood(seen, begin_s, end_s, deadline_s), **costs.row(len(seen))}


def describe_latency(seen: Sequence[Seen]) -> Row:
    """Quantiles of the whole answers, and of the first words of streams."""
    whole = [one.seconds for one in seen if one.status == 200 and one.first is None]
    first = [one.first - one.due for one in seen if one.first is not None]
    return {
        **{"requests": len(seen), "p50_s": quantile(whole, 0.5), "p99_s": quantile(whole, 0.99)},
        **{"first_p50_s": quantile(first, 0.5), "first_p99_s": quantile(first, 0.99)},
        **count_bad(seen),
    }


def describe_flood(seen: Sequence[Seen], begin_s: float, end_s: float, deadline_s: float) -> Row:
    """Goodput, and what became of the others, of requests that came between two times."""
    during = [one for one in seen if begin_s <= one.due < end_s]
    refused = [one.seconds for one in during if one.status == 503]
    waited = [one for one in refused if one > 0.05]
    return {
        "offered_per_s": len(during) / (end_s - begin_s),
        "goodput_per_s": goodput(seen, begin_s, end_s, deadline_s),
        "requests": len(during),
        "refused": len(refused),
        "refused_p50_ms": 1000 * quantile(refused, 0.5),
        "refused_p99_ms": 1000 * quantile(refused, 0.99),
        "refused_after_50_ms": len(waited),
        "late": sum(
            one.status == 504 or (one.status == 200 and one.seconds > deadline_s) for one in during
        ),
        **count_bad(during, expected=(200, 503, 504)),
    }


def count_bad(seen: Iterable[Seen], expected: Sequence[int] = (200,)) -> Row:
    """Numbers of wrong answers, and of requests with another status than expected."""
    seen = list(seen)
    failed = sum(one.status not in expected for one in seen)
    return {"wrong": sum(one.is_wrong for one in seen), "failed": failed}


class Costs:
    """What the processes of a system, and all others of the machine, use from now on."""

    def __init__(self, tree: Tree) -> None:
        self._tree, self._begun = tree, time.monotonic()
        self._cpu, self._busy = tree.cpu_s(), _busy_s()
        self._own = time.process_time()

    def row(self, num_requests: int) -> Row:
        """Processor seconds by request and by process; ``others`` is what ran beside."""
        now, seconds = self._tree.cpu_s(), time.monotonic() - self._begun
        used = {pid: cpu - self._cpu.get(pid, 0.0) for pid, cpu in now.items()}
        own, total = time.process_time() - self._own, sum(used.values())
        others = _busy_s() - self._busy - total - own
        row = {"cores": total / seconds, "others_cores": others / seconds}
        if num_requests:
            row |= {"cpu_ms": 1000 * total / num_requests}
            row |= {"client_cpu_ms": 1000 * own / num_requests}
            row["by_process_ms"] = _by_name(used, self._tree.names(), num_requests)
        return row


def _by_name(used: dict[int, float], names: dict[int, str], num_requests: int) -> dict[str, float]:
    """Milliseconds of a request by what processes are called, those above a tenth."""
    found: dict[str, float] = {}
    for pid, cpu in used.items():
        name = names.get(pid, "?")
        found[name] = found.get(name, 0.0) + 1000 * cpu / num_requests
    return {name: round(ms, 2) for name, ms in sorted(found.items()) if ms >= 0.1}


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


async def _agree(pool: Pool, system: PlainVllm, items: dict[int, str | None]) -> Row:
    """How many of the service's answers under load are the peer's to the same question, alone."""
    same, numbers = 0, sorted(items)[:NUM_CHECKED]
    async with _client() as client:
        for number in numbers:
            found = pool.decide(number, await system.generate(client, pool[number]))
            ours = items[number]
            names = {None if one is None else normalize_title(one) for one in (found, ours)}
            same += len(names) == 1
    return {"checked": len(numbers), "same": same}


def _client() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=300)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
