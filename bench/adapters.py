"""Time an adapter beside its base against merged weights, in one process and in turns.

    python -m bench.adapters --users 8 --rounds 2

The model is that of ``bench.inference`` with random adapters of rank 8 on all its linear layers;
outputs have 96 tokens. The ways: merged weights; one adapter for all users, on an engine with room
for one and for four; four adapters, one for each fourth user; and the base without any, on that
engine. Each way keeps its best round, in CPU seconds of the process, whose engines have one thread.
Outputs that are equal to those of the merged weights, and in mixed batches to those of the same
adapter alone, are counted, so that it is seen that the same was computed.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.inference import NUM_NEW, SIDES, make_model, make_questions, make_recommender
from msrrec.config import InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.vllm import ENVIRONMENT, VllmEngine
from msrrec.inference.batch import QueryEncoder, TitleTable
from msrrec.models import ModelSource

NUM_ADAPTERS = 4


def write_adapters(source: ModelSource, folder: Path) -> dict[str, str]:
    """Adapters with random weights; the first is also merged into ``folder/merged``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {}
    for n in range(NUM_ADAPTERS):
        torch.manual_seed(n)
        base = AutoModelForCausalLM.from_pretrained(source.path)
        kind = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(base, kind)
        found[str(n)] = str(folder / str(n))
        model.save_pretrained(found[str(n)])
        if n == 0:
            model.merge_and_unload().save_pretrained(folder / "merged")
            AutoTokenizer.from_pretrained(source.path).save_pretrained(folder / "merged")
    return found


class Ways:
    """The measured ways to generate."""

    def __init__(self, folder: Path, num_users: int) -> None:
        source = make_model(folder / "base")
        adapters = write_adapters(source, folder)
        config = InferenceConfig(max_new_tokens=NUM_NEW)
        merged = replace(source, path=str(folder / "merged"))
        self.merged = VllmEngine(merged, config)
        self.one = VllmEngine(source, config, {"0": adapters["0"]})
        self.all = VllmEngine(source, config, adapters)
        dataset, examples = make_questions(num_users, 6)
        queries = TitleTable.collect(dataset).read(QueryEncoder(dataset).encode(examples))
        recommender = make_recommender(self.merged, config)
        self.requests = [recommender.build_request(q, side) for q in queries for side in SIDES]

    def named(self, num_adapters: int) -> list[GenerationRequest]:
        """The requests with adapters, the same one for both sides of a user; without for 0."""
        return [
            replace(one, adapter=str(n // len(SIDES) % num_adapters)) if num_adapters else one
            for n, one in enumerate(self.requests)
        ]

    @property
    def ways(self) -> dict[str, tuple[VllmEngine, list[GenerationRequest]]]:
        """Engine and requests of each way."""
        return {
            "merged": (self.merged, self.named(0)),
            "base, room for 4 adapters": (self.all, self.named(0)),
            "adapter": (self.one, self.named(1)),
            "adapter, room for 4": (self.all, self.named(1)),
            "4 adapters": (self.all, self.named(NUM_ADAPTERS)),
        }


def count_equal(outputs: list[Generation], others: list[Generation]) -> int:
    """Outputs with the same tokens."""
    return sum(a.token_ids == b.token_ids for a, b in zip(outputs, others, strict=True))


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(Path(folder), args.users).ways
        best = dict.fromkeys(ways, float("inf"))
        outputs: dict[str, list[Generation]] = {}
        for _ in range(args.rounds + 1):  # the first one warms the engines
            for name, (engine, requests) in ways.items():
                engine.llm.reset_prefix_cache()
                began = time.process_time()
                found = engine.generate(requests)
                if name in outputs:
                    best[name] = min(best[name], time.process_time() - began)
                outputs[name] = found
    tokens = {n: sum(len(one.token_ids) for one in found) for n, found in outputs.items()}
    mixed = [n for n, one in enumerate(ways["4 adapters"][1]) if one.adapter == "0"]
    rates = {name: tokens[name] / best[name] for name in ways}
    print(
        json.dumps(
            {
                "tokens_per_cpu_s": {name: round(rate) for name, rate in rates.items()},
                "of_merged": {n: round(rate / rates["merged"], 2) for n, rate in rates.items()},
                "outputs": len(outputs["merged"]),
                "equal_to_merged": count_equal(outputs["adapter"], outputs["merged"]),
                "mixed": len(mixed),
                "mixed_equal_to_alone": count_equal(
                    [outputs["4 adapters"][n] for n in mixed],
                    [outputs["adapter"][n] for n in mixed],
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
