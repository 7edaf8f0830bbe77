"""One training and its readings, for ``bench.real_backbone``.

Examples, loss, optimiser step, parsers and fusion are the product's; sampling is
``bench.real_decoding``'s.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.real_asking import Asked, Users, encode_history, encode_line
from bench.real_decoding import Decoder
from bench.real_specs import Answers, Place, Spec
from bench.training_systems import accept_gqa
from msrrec.config import ModelConfig, PromptConfig, RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.models import ModelSource, locate_base
from msrrec.reasoning.encoding import Query
from msrrec.schema import Split
from msrrec.training.examples import (
    Encoded,
    ExampleSet,
    build_examples,
    iter_training_examples,
    load_paths,
    make_query,
)
from msrrec.training.learner import Learner
from msrrec.training.loss import NOT_SUPERVISED, RECOMMENDATION
from msrrec.training.model import add_lora, load_base, load_tokenizer, multiplies_in_bfloat16
from msrrec.training.schedule import iter_batches, learning_rate, num_steps


class Bench:
    """Runs one spec after another in one process, and keeps what they share."""

    def __init__(self, place: Place) -> None:
        self.place, self.device = place, torch.device(place.device)
        self.on_gpu = self.device.type != "cpu"
        if self.on_gpu:
            torch.set_float32_matmul_precision("high")
            accept_gqa()
        self.config = load_config(place.preset)

    @cached_property
    def source(self) -> ModelSource:
        """The base model."""
        return locate_base(ModelConfig(name_or_path=self.place.model), self.config.prompt)

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's."""
        return load_tokenizer(self.source)

    @lru_cache(8)  # noqa: B019 - one object per process
    def data(self, name: str) -> tuple[Dataset, Mapping[str, tuple[str, ...]]]:
        """A dataset and its reasoning paths."""
        folder = Path(self.place.data, name)
        dataset = Dataset.load(str(folder / "dataset"))
        return dataset, load_paths(str(folder / "reasoning"), iter_training_examples(dataset))

    def form(self, spec: Spec) -> PromptConfig:
        """How a run's prompts are written."""
        return self.config.prompt.model_copy(update={"order": spec.order})

    def settings(self, spec: Spec) -> RunConfig:
        """The settings of a run: those of the preset, but for what the spec varies."""
        train = {
            "arm": "chain" if spec.arm == "untuned" else spec.arm,
            "sides": self.place.sides,
            "learning_rate": spec.rate or self.config.train.learning_rate,
            "num_epochs": spec.epochs,
            "global_batch_size": self.place.global_batch,
            "micro_batch_size": self.place.micro_batch,
            "attention": self.place.attention,
            "seed": spec.seed,
            "lora": self.config.train.lora.model_copy(
                update={"rank": spec.rank, "alpha": 4 * spec.rank}
            ),
        }
        return self.config.model_copy(
            update={"train": self.config.train.model_copy(update=train), "prompt": self.form(spec)}
        )

    def run(self, spec: Spec) -> Answers:
        """Train, ask and read."""
        begin = time.monotonic()
        model, facts = self.train(spec)
        trained = time.monotonic()
        with torch.inference_mode():
            decoder = Decoder(
                model,
                self.device,
                torch.bfloat16 if self.on_gpu else torch.float32,
                self.tokenizer.eos_token_id,
                1024,
            )
        del model
        self.free()
        answers = self.ask(spec, decoder)
        del decoder
        self.free()
        seconds = {"train_s": trained - begin, "ask_s": time.monotonic() - trained}
        if self.on_gpu:
            seconds["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        rounded = {name: round(value, 2) for name, value in seconds.items()}
        return replace(answers, facts={**asdict(spec), **facts, **answers.facts, **rounded})

    def ask(self, spec: Spec, decoder: Decoder) -> Answers:
        """What a model answers the users of a run."""
        users = self.users(spec.dataset, spec.split, spec.users, spec.order)
        place = self.place
        sides = place.asked or place.sides
        asked = Asked(spec, decoder, users, self.config.inference, sides, place.slots)
        return asked.sampled() if place.is_sampled_only else asked.answers()

    @lru_cache(8)  # noqa: B019 - one object per process
    def users(self, dataset: str, split: Split, count: int, order: str) -> Users:
        """The first users of a split, 0 for all."""
        spec = Spec(dataset, "none", order, 0, split=split, users=count)
        return Users(spec, self.tokenizer, self.data(dataset)[0], self.form(spec))

    def free(self) -> None:
        """Give memory that is not used back, for the other processes."""
        if self.on_gpu:
            torch.cuda.empty_cache()

    def examples(self, spec: Spec) -> ExampleSet:
        """The training examples of a run."""
        dataset, paths = self.data(spec.dataset)
        config = self.settings(spec)
        found = build_examples(dataset, paths, self.tokenizer, config.train, config.prompt)
        if not spec.plain:
            return found
        plain = ExampleSet.collect(
            encode_plain(self.tokenizer, make_query(dataset, e), dataset.items[e.target].title)
            for e in iter_training_examples(dataset)
        )
        return join_sets(found, plain)

    def train(self, spec: Spec) -> tuple[Any, dict[str, Any]]:
        """The trained model, and what its training took."""
        config = self.settings(spec).train
        base = load_base(self.source, "auto", on_gpu=self.on_gpu)
        if spec.arm == "untuned":
            return base, {}
        begin = time.monotonic()
        examples = self.examples(spec)
        built = time.monotonic() - begin
        in_bfloat16 = multiplies_in_bfloat16("auto", self.device)
        learner = Learner(add_lora(base, config), config, bfloat16=in_bfloat16, device=self.device)
        total = num_steps(len(examples.units), config)
        batches = list(
            itertools.islice(iter_batches(len(examples.units), config), spec.max_steps or None)
        )
        losses = []
        for number, (_, batch) in enumerate(batches):
            rate = learning_rate(number, total, config)
            losses.append(learner.step(number, examples, batch, rate))
        supervised = examples.count_supervised(batch for _, batch in batches)
        last = losses[-max(1, len(losses) // 10) :]
        tokens = sum(result.num_tokens for result in losses)
        return learner.model, {
            "examples": len(examples),
            "examples_with_chain": examples.num_reasoning,
            "steps": len(batches),
            "tokens": tokens,
            "supervised_reasoning": supervised.reasoning,
            "supervised_recommendation": supervised.recommendation,
            "build_s": round(built, 2),
            "tokens_per_s": round(tokens / (time.monotonic() - begin - built)),
            "loss_rea": mean([r.loss_rea for r in last if r.loss_rea is not None]),
            "loss_rec": mean([r.loss_rec for r in last]),
        }


def mean(values: Sequence[float]) -> float | None:
    """The mean; None without values."""
    return round(sum(values) / len(values), 5) if values else None


def encode_plain(tokenizer: Any, query: Query, target: str) -> Encoded:
    """An example that teaches the next title without a list."""
    before, line = encode_history(tokenizer, query), encode_line(tokenizer, target)
    segments = [NOT_SUPERVISED] * len(before) + [RECOMMENDATION] * len(line)
    return Encoded([*before, *line], segments, 0)


def join_sets(first: ExampleSet, second: ExampleSet) -> ExampleSet:
    """Two sets of examples as one."""
    return ExampleSet(
        np.concatenate([first.input_ids, second.input_ids]),
        np.concatenate([first.segments, second.segments]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        first.num_reasoning + second.num_reasoning,
        first.num_shortened + second.num_shortened,
        np.concatenate([first.units, second.units + len(first)]),
    )
