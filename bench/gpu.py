"""Llama-3-8B's shape with random weights from training to the service, on one GPU, in nine minutes.

    python -m bench.gpu
    python -m bench.gpu --shape tiny --rows 16 --seconds 4

Nothing is downloaded: weights are random, the tokenizer is the embedded one. Three parts run one
after the other, each in a process of its own, so that all memory is free for the next:

    train    steps of LoRA, ours and plain transformers + PEFT
    batch    both sides of many users at once through ``Recommender``, and the same requests through
             ``vllm.LLM.generate`` alone, in turn
    service  clients that each ask for both sides and ask again once they have them, on the engine
             that the service uses; HTTP and Ray Serve are left out

A part that fails or takes too long leaves a line that says so. In this form it has been run with
``--shape tiny`` on processors alone, never on a GPU.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.inference import SIDES, make_questions, make_recommender
from bench.load import closed_loop, quantile
from bench.training_gpu import SHAPES, measure_steps
from msrrec.config import InferenceConfig
from msrrec.engines.base import Engine, Generation, GenerationRequest
from msrrec.inference.batch import QueryEncoder, TitleTable
from msrrec.inference.recommender import Recommender
from msrrec.models import EMBEDDED_DIR, ModelSource
from msrrec.reasoning.encoding import Query

Line = tuple[str, str, float, str]
"""Part, what, figure and unit."""

BUDGETS_S = {"train": 200, "batch": 180, "service": 150}
"""Longest times of the parts; together under nine minutes."""
NUM_NEW = 256


class OnlineEngine(Protocol):
    """An engine that generates for many callers at once."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """The whole output."""
        ...


def train(shape: str, num_examples: int, steps: int) -> list[Line]:
    """Tokens a second of both systems."""
    lines: list[Line] = []
    for system in ("ours", "plain"):
        found = measure_steps(system, shape, num_examples, steps)
        best, part = min(found.seconds), f"{system} on {found.device}"
        lines += [
            ("train", part, found.num_tokens / best, "tokens/s"),
            ("train", part, 100 * found.of_peak, "% of the peak"),
            ("train", part, found.memory_gb, "GB"),
        ]
    return lines


def make_source(shape: str, folder: Path) -> ModelSource:
    """A folder with a model's settings and tokenizer; vLLM draws the weights itself."""
    from transformers import AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIR)
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(**SHAPES[shape], **ids, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    return ModelSource(shape, str(folder), None)


def make_config() -> InferenceConfig:
    """Settings of inference with random weights."""
    options = {"load_format": "dummy"}
    return InferenceConfig(max_new_tokens=NUM_NEW, max_model_len=2048, vllm_kwargs=options)


def make_queries(num_rows: int) -> list[Query]:
    """Users with ten purchases and six candidates."""
    dataset, examples = make_questions(num_rows, 6)
    return TitleTable.collect(dataset).read(QueryEncoder(dataset).encode(examples))


def batch(engine: Engine, queries: Sequence[Query], rounds: int = 2) -> list[Line]:
    """Tokens a second through ``Recommender`` and through the engine alone, in turn."""
    recommender = make_recommender(engine, make_config())
    requests = [recommender.build_request(query, side) for query in queries for side in SIDES]
    engine.generate(requests[:16])
    rates: dict[str, list[float]] = {"ours": [], "vLLM alone": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        found = recommender.generate(queries, SIDES)
        tokens = sum(output.num_tokens for sides in found for output in sides.values())
        rates["ours"].append(tokens / (time.perf_counter() - begin))
        begin = time.perf_counter()
        tokens = sum(len(generation.token_ids) for generation in engine.generate(requests))
        rates["vLLM alone"].append(tokens / (time.perf_counter() - begin))
    lines: list[Line] = [
        ("batch", name, statistics.median(found), "tokens/s") for name, found in rates.items()
    ]
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    return [*lines, ("batch", "ours over vLLM alone", statistics.median(ratios), "")]


async def serve(
    engine: OnlineEngine, recommender: Recommender, queries: Sequence[Query], seconds: float
) -> list[Line]:
    """Requests a second and latency of clients in a closed loop, as many as there are queries."""

    async def ask(number: int, begin: float) -> float:
        query = queries[number % len(queries)]
        asked = time.perf_counter()
        await asyncio.gather(
            *(engine.generate(recommender.build_request(query, side)) for side in SIDES)
        )
        return time.perf_counter() - asked

    begin = time.perf_counter()
    latencies = await closed_loop(len(queries), seconds, ask)
    took = time.perf_counter() - begin
    what = f"{len(queries)} clients"
    return [
        ("service", what, len(latencies) / took, "requests/s"),
        ("service", what, quantile(latencies, 0.5), "s, p50"),
        ("service", what, quantile(latencies, 0.99), "s, p99"),
    ]


async def start_and_serve(source: ModelSource, seconds: float, num_clients: int) -> list[Line]:
    """The part ``service`` on vLLM."""
    from msrrec.engines.vllm import AsyncVllmEngine  # seconds to import

    config = make_config()
    engine = AsyncVllmEngine(source, config)
    recommender = Recommender(
        engine.tokenizer, max_model_len=engine.max_model_len, form=source.form, config=config
    )
    queries = make_queries(num_clients)
    try:
        await serve(engine, recommender, queries[:4], 1.0)
        return await serve(engine, recommender, queries, seconds)
    finally:
        engine.shutdown()


def run_part(args: argparse.Namespace) -> list[Line]:
    """One part, in this process."""
    if args.part == "train":
        return train(args.shape, args.examples, args.steps)
    from msrrec.engines.vllm import ENVIRONMENT, VllmEngine

    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(args.shape, Path(folder))
        if args.part == "batch":
            return batch(VllmEngine(source, make_config()), make_queries(args.rows))
        return asyncio.run(start_and_serve(source, args.seconds, args.clients))


def run_in_turn(options: Sequence[str]) -> list[Line]:
    """Every part in a process of its own."""
    lines: list[Line] = []
    for part, budget_s in BUDGETS_S.items():
        if part != "train" and importlib.util.find_spec("vllm") is None:
            lines.append((part, "vLLM is not installed", float("nan"), ""))
            continue
        command = [sys.executable, "-m", "bench.gpu", "--part", part, *options]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, timeout=budget_s
            )
            lines += [tuple(line) for line in json.loads(done.stdout.splitlines()[-1])]
        except subprocess.TimeoutExpired:
            lines.append((part, f"took more than {budget_s} s", float("nan"), ""))
        except subprocess.CalledProcessError as error:
            lines.append((part, f"ended with {error.returncode}", float("nan"), ""))
    return lines


def to_table(lines: Sequence[Line]) -> str:
    """The table in Markdown."""
    body = [f"| {part} | {what} | {value:,.4g} {unit} |" for part, what, value, unit in lines]
    return "\n".join(["| part | | |", "|---|---|---|", *body])


def main() -> None:
    """Run the parts and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama3-8b")
    parser.add_argument("--examples", type=int, default=16, help="of a training step")
    parser.add_argument("--steps", type=int, default=4, help="of training that are timed")
    parser.add_argument("--rows", type=int, default=512, help="users of batch inference")
    parser.add_argument("--clients", type=int, default=32, help="of the service")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the service's load")
    parser.add_argument("--part", choices=BUDGETS_S, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(run_part(args)))
    else:
        print(to_table(run_in_turn(sys.argv[1:])))


if __name__ == "__main__":
    main()
