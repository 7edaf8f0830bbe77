"""The online service beside the strongest plain peer, on the same cores.

    python -m bench.serving --out runs/serving.json
    python -m bench.serving --part capacity --out runs/serving.json

Ours is ``msrrec serve`` as a user starts it: Ray Serve and two vLLM engines. The peer is two plain
servers of vLLM, which the client asks for the same two outputs: same token ids, sampling, bound
answers, maximum lengths and options of vLLM. One system runs at a time, in the order A B B A, and
each question is asked of it once, so no cache of answers can help. ``capacity`` is a closed loop of
clients; ``latency`` is an open loop at random times at 70% of the lesser capacity, which it takes
from ``--out``; ``overload`` asks ours for more than it can do, with short deadlines.
"""

import argparse
import json
import math
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.hardware import hardware
from bench.serving_parts import (
    SYSTEMS,
    Plan,
    measure_capacity,
    measure_latency,
    measure_overload,
)
from msrrec.config import InferenceConfig
from msrrec.versions import versions

PARTS = ("capacity", "latency", "overload")
QUICK_S = 6.0


def main() -> None:
    """Run the parts, print what they found, and keep it in a file."""
    args = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    found |= {"hardware": hardware(), "versions": versions(), "settings": vars(args)}
    with tempfile.TemporaryDirectory() as logs:
        plan = make_plan(args, Path(args.logs or logs))
        for part in PARTS if args.part == "all" else (args.part,):
            found[part] = {"seconds": plan.seconds, **measure(part, plan, found, args.rate)}
            out.write_text(json.dumps(found, indent=2))
    print("\n\n".join(table(part, found[part]) for part in PARTS if part in found))


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--out", default="runs/serving.json", help="results of parts are kept here")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:g} s each, for tries")
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop")
    parser.add_argument("--rate", type=float, help="requests a second of the part latency")
    parser.add_argument("--share", type=float, default=0.7, help="of the lesser capacity")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--kv-cache-gib", type=float, default=0.25, help="of each engine")
    parser.add_argument("--order", default="ours,peer,peer,ours", help="of the rounds")
    parser.add_argument("--logs", help="folder for the logs of both systems")
    return parser.parse_args(argv)


def make_plan(args: argparse.Namespace, logs: Path) -> Plan:
    """What is measured."""
    config = InferenceConfig(
        max_new_tokens=args.max_new_tokens, kv_cache_gib=args.kv_cache_gib, constrained=True
    )
    seconds = QUICK_S if args.quick else args.seconds
    order = tuple(args.order.split(","))
    if set(order) != set(SYSTEMS):
        raise SystemExit(f"--order: found {args.order}; expected ours and peer, once or more")
    return Plan(args.model, config, args.clients, seconds, args.share, order, logs)


def measure(part: str, plan: Plan, found: dict[str, Any], rate: float | None) -> dict[str, Any]:
    """One part's figures."""
    if part == "capacity":
        return measure_capacity(plan)
    if part == "overload":
        return measure_overload(plan)
    if rate is None and "capacity" not in found:
        raise SystemExit("the part latency needs --rate, or the part capacity in --out")
    if rate is None:
        rates = _mean(found["capacity"]["rounds"], "requests_per_s")
        rate = plan.share * min(rates[name] for name in SYSTEMS)
    return measure_latency(plan, rate)


def table(part: str, found: dict[str, Any]) -> str:
    """A part's figures as a table in Markdown."""
    return {"capacity": _capacity, "latency": _latency, "overload": _overload}[part](found)


def _capacity(found: dict[str, Any]) -> str:
    rows = found["rounds"]
    lines = [
        _line("requests a second", _mean(rows, "requests_per_s"), at_least=0.95),
        _line("processor ms a request", _mean(rows, "cpu_ms")),
        _line("idle, cores", _mean(rows, "idle_cores")),
        _line("memory (PSS), MiB", _mean(rows, "pss_mib")),
        _line("others beside, cores", _mean(rows, "others_cores")),
    ]
    same = found["agreement"]
    note = f"{same['same']} of {same['checked']} answers are those of the peer's outputs."
    return "\n".join([*_HEAD, *lines, "", note])


def _latency(found: dict[str, Any]) -> str:
    rows = {name: [row] for name, row in found["together"].items()}
    parts = found["rounds"]
    lines = [
        _line("p50, ms", _ms(rows, "p50_s"), at_most=1.10),
        _line("p99, ms", _ms(rows, "p99_s"), at_most=1.10),
        _line("first word p50, ms", _ms(rows, "first_p50_s")),
        _line("first word p99, ms", _ms(rows, "first_p99_s")),
        _line("processor ms a request", _mean(parts, "cpu_ms")),
        _line("memory (PSS), MiB", _mean(parts, "pss_mib")),
        _line("others beside, cores", _mean(parts, "others_cores")),
    ]
    return "\n".join([f"{found['rate']:.2f} requests a second", "", *_HEAD, *lines])


def _mean(rows: dict[str, Any], key: str) -> dict[str, float]:
    """Both systems' mean over the rounds, and the ratio."""
    ours, peer = (statistics.fmean(row[key] for row in rows[name]) for name in SYSTEMS)
    return {"ours": ours, "peer": peer, "ratio": ours / peer if peer else math.nan}


def _ms(rows: dict[str, Any], key: str) -> dict[str, float]:
    """The same in milliseconds."""
    found = _mean(rows, key)
    return {**found, "ours": 1000 * found["ours"], "peer": 1000 * found["peer"]}


_HEAD = ("| measure | ours | peer | ours / peer | aim |", "|---|---|---|---|---|")


def _line(
    name: str,
    found: dict[str, float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> str:
    aim, ratio = "", found["ratio"]
    if at_least is not None:
        aim = f"at least {at_least:.2f}: {'met' if ratio >= at_least else 'missed'}"
    if at_most is not None:
        aim = f"at most {at_most:.2f}: {'met' if ratio <= at_most else 'missed'}"
    return f"| {name} | {found['ours']:.4g} | {found['peer']:.4g} | {ratio:.3f} | {aim} |"


def _overload(found: dict[str, Any]) -> str:
    peak = found["peak"]["requests_per_s"]
    lines = [
        f"peak {peak:.2f} answers a second; a request alone takes {found['service_s']:.2f} s, "
        f"a full line {found['full_line_s']:.1f} s",
        "",
        "| deadline | load | goodput a second | peak in time | of it (aim 0.90) | refused "
        "| refusals p50, p99, ms (aim 50) | late | wrong | failed | others beside, cores |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["loads"]:
        lines.append(
            f"| {row['deadline']}, {row['deadline_s']:.2f} s | {row['load']:g} x "
            f"| {row['goodput_per_s']:.2f} | {row['peak_in_time']:.2f} | {row['of_peak']:.3f} "
            f"| {row['refused']} of {row['requests']} "
            f"| {row['refused_p50_ms']:.0f}, {row['refused_p99_ms']:.0f} "
            f"| {row['late']} | {row['wrong']} | {row['failed']} | {row['others_cores']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
