"""The online service beside the strongest plain peer, on the same cores.

    python -m bench.serving --parts capacity,latency
    python -m bench.serving --parts capacity,latency --set serve.share_engine=false
    python -m bench.serving --parts overload

Ours is ``msrrec serve`` as a user starts it: Ray Serve and a vLLM engine. The peer is two plain
servers of vLLM, which the client asks for the same two outputs, one server each, or with ``--split
request`` the less busy one for both: same token ids, sampling, bound answers, maximum lengths and
options of vLLM. One system runs at a time, in the order A B B A, and each question is asked of it
once, so no cache of answers can help. ``capacity`` is a closed loop of clients; ``latency`` is an
open loop at random times at 70% of the lesser capacity, which it takes from ``--out``; ``overload``
asks ours for more than it can do, with short deadlines.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.hardware import hardware
from bench.page import summarize
from bench.record import add_option, keep
from bench.serving_parts import (
    SYSTEMS,
    Plan,
    measure_capacity,
    measure_latency,
    measure_overload,
)
from bench.serving_result import lesser_capacity, make_result
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
        for part in args.parts:
            found[part] = {"seconds": plan.seconds, **measure(part, plan, found, args.rate)}
            out.write_text(json.dumps(found, indent=2, default=str))
    result = make_result({part: found[part] for part in args.parts}, args.label)
    keep(args.result, result)
    print(summarize(result))


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=to_parts, default=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", default="runs/serving.json", help="all that was seen is kept here")
    add_option(parser)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:g} s each, for tries")
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop")
    parser.add_argument("--rate", type=float, help="requests a second of the part latency")
    parser.add_argument("--share", type=float, default=0.7, help="of the lesser capacity")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--kv-cache-gib", type=float, default=0.25, help="of each engine")
    parser.add_argument("--order", default="ours,peer,peer,ours", help="of the rounds")
    parser.add_argument("--set", action="append", default=[], help="a setting of msrrec serve")
    parser.add_argument("--environment", action="append", default=[], help="of ours: NAME=VALUE")
    parser.add_argument(
        "--split",
        choices=("request", "side"),
        default="side",
        help="what the peer's servers share: a request's sides go to one of them, or one to each",
    )
    parser.add_argument("--label", default="", help="what rows of these settings are called")
    parser.add_argument("--logs", help="folder for the logs of both systems")
    return parser.parse_args(argv)


def to_parts(text: str) -> tuple[str, ...]:
    """The parts that are named, in their order."""
    parts = tuple(text.split(","))
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"found {text}; expected some of {', '.join(PARTS)}")
    return parts


def make_plan(args: argparse.Namespace, logs: Path) -> Plan:
    """What is measured."""
    config = InferenceConfig(
        max_new_tokens=args.max_new_tokens, kv_cache_gib=args.kv_cache_gib, constrained=True
    )
    seconds = QUICK_S if args.quick else args.seconds
    order = tuple(args.order.split(","))
    if set(order) != set(SYSTEMS):
        raise SystemExit(f"--order: found {args.order}; expected ours and peer, once or more")
    return Plan(
        args.model,
        config,
        args.clients,
        seconds,
        args.share,
        order,
        logs,
        tuple(args.set),
        dict(one.split("=", 1) for one in args.environment),
        args.split,
    )


def measure(part: str, plan: Plan, found: dict[str, Any], rate: float | None) -> dict[str, Any]:
    """One part's figures."""
    if part == "capacity":
        return measure_capacity(plan)
    if part == "overload":
        return measure_overload(plan)
    if rate is None and "capacity" not in found:
        raise SystemExit("the part latency needs --rate, or the part capacity")
    if rate is None:
        rate = plan.share * lesser_capacity(found["capacity"])
    return measure_latency(plan, rate)


if __name__ == "__main__":
    main()
