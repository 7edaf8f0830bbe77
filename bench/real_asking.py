"""What the users of a run are asked, and how the answers are read, for ``bench.real_backbone``."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.real_decoding import Decoder
from bench.real_specs import REASONS, Answers, Spec
from msrrec.config import InferenceConfig, PromptConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.base import Generation
from msrrec.evaluation.hits import Cell, hits_of
from msrrec.inference.codec import read_generation, reasoning_ids, request_seed
from msrrec.inference.fusion import (
    ItemWins,
    SideOutput,
    by_coin,
    by_equation_3,
    by_joint_likelihood,
    by_lower,
    by_vote,
    candidate_probabilities,
    fuse,
)
from msrrec.inference.predictions import Prediction
from msrrec.reasoning.encoding import (
    Query,
    encode_choice,
    encode_prompt,
    encode_text,
    fit_prompt,
    shorten,
)
from msrrec.reasoning.prompts import Side, render_heading, render_line, render_prompt
from msrrec.schema import Example
from msrrec.titles import show_titles
from msrrec.training.examples import make_query

_SHORT_OUTPUT = 96
"""Most tokens of an output without reasoning."""


class Users:
    """The users that runs ask, as titles and token ids; kept for later runs in the same form."""

    def __init__(self, spec: Spec, tokenizer: Any, dataset: Dataset, form: PromptConfig) -> None:
        self.tokenizer, self.form = tokenizer, form
        self.examples: list[Example] = dataset.examples(spec.split, spec.users)
        self.queries = [make_query(dataset, example) for example in self.examples]
        self.choices = [encode_choice(tokenizer, q.candidates, form) for q in self.queries]
        end = tokenizer.eos_token_id
        self.endings = [[[*a, end] for a in choice.answers] for choice in self.choices]
        self.lines = [[encode_line(tokenizer, t) for t in q.candidates] for q in self.queries]
        self._prompts: dict[tuple[Side, int], list[list[int]]] = {}

    def prompts(self, side: Side, room: int) -> list[list[int]]:
        """The prompt of each user, as the product's recommender builds it."""
        if (side, room) not in self._prompts:
            self._prompts[side, room] = [
                fit_prompt(self.tokenizer, side, query, self.form, room)[0]
                for query in self.queries
            ]
        return self._prompts[side, room]

    @cached_property
    def blank_prompts(self) -> list[list[int]]:
        """The direct prompts without any purchase."""
        texts = [
            render_prompt("direct", q.domain, (), q.candidates, self.form) for q in self.queries
        ]
        return [
            encode_prompt(self.tokenizer, text, use_chat_template=self.form.use_chat_template)
            for text in texts
        ]

    @cached_property
    def histories(self) -> list[list[int]]:
        """The histories without a list."""
        return [encode_history(self.tokenizer, query) for query in self.queries]


class Asked:
    """The users of a run and what the model answers them."""

    def __init__(
        self,
        spec: Spec,
        decoder: Decoder,
        users: Users,
        limits: InferenceConfig,
        sides: Sequence[Side],
        slots: int,
    ) -> None:
        self.spec, self.decoder, self.users = spec, decoder, users
        self.tokenizer, self.form, self.limits = users.tokenizer, users.form, limits
        self.sides, self.slots = sides, slots
        self.examples, self.queries, self.choices = users.examples, users.queries, users.choices

    def sampled(self) -> Answers:
        """The sampled readings: each side's and Eq. 3's after reasoning, or else the direct one."""
        reasons = self.spec.arm in REASONS
        sides: Sequence[Side] = self.sides if reasons else ("direct",)
        outputs: dict[str, Sequence[SideOutput]] = {s: self.generate(s)[1] for s in sides}
        indices: dict[str, list[int | None]] = {
            side: [output.index for output in found] for side, found in outputs.items()
        }
        if {"user", "item"} <= set(outputs):
            pairs = zip(outputs["user"], outputs["item"], strict=True)
            indices["fused"] = [fuse(*pair, by_equation_3).index for pair in pairs]
        return Answers(self.rows(indices), self.records(outputs, {}), self.counts(outputs))

    def answers(self) -> Answers:
        """All readings of all users."""
        tables = self.likelihoods()
        sides: list[Side] = ["direct"]
        sides += list(self.sides) if self.spec.arm in REASONS else []
        outputs = {side: self.ask(side) for side in sides}
        prior = tables.pop("prior")
        tables["gain"] = subtract(tables["likelihood"], prior)
        indices = {
            name if name.startswith("lm-") else f"direct-{name}": list(map(best, values))
            for name, values in tables.items()
        }
        for side, found in outputs.items():
            indices[side] = [output.index for output in found]
        if {"user", "item"} <= set(outputs):
            indices |= self.fused(outputs, prior)
        return Answers(self.rows(indices), self.records(outputs, tables), self.counts(outputs))

    def prompts(self, side: Side) -> list[list[int]]:
        """The prompt of each user."""
        room = (self.limits.max_model_len or 1024) - self.limits.max_new_tokens
        return self.users.prompts(side, room)

    def generate(self, side: Side) -> tuple[list[Generation], list[SideOutput]]:
        """A side's sampled output of each user, as tokens and as it is read."""
        limits = self.limits
        generations = self.decoder.sample(
            self.prompts(side),
            limits.max_new_tokens if side != "direct" else _SHORT_OUTPUT,
            limits.temperature,
            request_seed(self.spec.seed, "batch", side),
            self.slots,
        )
        pairs = zip(self.queries, generations, strict=True)
        return generations, [self.read(side, query, found) for query, found in pairs]

    def ask(self, side: Side) -> list[SideOutput]:
        """A side's sampled output of each user, with the likelihoods of all candidates after it."""
        generations, outputs = self.generate(side)
        if side == "direct":
            return outputs
        prefixes = [
            [*prompt, *reasoning_ids(self.tokenizer, found), *choice.closing]
            for prompt, found, choice in zip(
                self.prompts(side), generations, self.choices, strict=True
            )
        ]
        scores = self.decoder.score(prefixes, self.users.endings)
        pairs = zip(outputs, scores, strict=True)
        return [replace(output, candidate_logprobs=values) for output, values in pairs]

    def read(self, side: Side, query: Query, generation: Generation) -> SideOutput:
        """A generation read as the product reads it."""
        shown = show_titles(query.candidates, self.form.max_title_chars)
        return read_generation(self.tokenizer, side, shown, generation)

    def likelihoods(self) -> dict[str, list[tuple[float, ...]]]:
        """Log-likelihoods of the candidates without reasoning.

        ``likelihood`` is after the direct prompt, ``prior`` after the same prompt without a
        history; ``lm-likelihood`` and ``lm-gain`` are those of the baselines of these names.
        """
        users, endings = self.users, self.users.endings
        direct, blank = (
            [[*p, *choice.closing] for p, choice in zip(prompts, self.choices, strict=True)]
            for prompts in (self.prompts("direct"), users.blank_prompts)
        )
        alone = [encode_head(self.tokenizer, query.domain) for query in self.queries]
        after, before = (self.decoder.score(some, users.lines) for some in (users.histories, alone))
        return {
            "likelihood": self.decoder.score(direct, endings),
            "prior": self.decoder.score(blank, endings),
            "lm-likelihood": after,
            "lm-gain": subtract(after, before),
        }

    def fused(
        self, outputs: Mapping[str, Sequence[SideOutput]], prior: Sequence[tuple[float, ...]]
    ) -> dict[str, list[int | None]]:
        """The readings of both sides together, and of the likelihoods after their reasoning."""
        found: dict[str, list[int | None]] = {}
        pairs = list(zip(outputs["user"], outputs["item"], strict=True))
        direct = outputs["direct"]
        rules: dict[str, list[ItemWins]] = {
            "fused": [by_equation_3] * len(pairs),
            "fused-lower": [by_lower] * len(pairs),
            "fused-joint": [by_joint_likelihood] * len(pairs),
            "fused-coin": [by_coin(example.example_id) for example in self.examples],
            "fused-vote": [by_vote((*p, d)) for p, d in zip(pairs, direct, strict=True)],
        }
        for name, some in rules.items():
            fusions = [fuse(*pair, rule) for pair, rule in zip(pairs, some, strict=True)]
            found[name] = [fusion.index for fusion in fusions]
        likelihoods = {
            side: [output.candidate_logprobs or () for output in outputs[side]]
            for side in ("user", "item")
        }
        likelihoods["both"] = [
            tuple(np.log(np.mean([candidate_probabilities(s) for s in pair], 0) + 1e-30).tolist())
            for pair in pairs
        ]
        for side, values in likelihoods.items():
            found[f"{side}-likelihood"] = list(map(best, values))
            found[f"{side}-gain"] = list(map(best, subtract(values, prior)))
        return found

    def rows(self, indices: Mapping[str, Sequence[int | None]]) -> list[dict[str, Any]]:
        """The rows of ``hits.parquet``."""
        spec = self.spec
        found: list[dict[str, Any]] = []
        for reading, choices in indices.items():
            cell = Cell(spec.dataset, spec.kind, spec.order, reading)
            predictions = self.predictions(reading, choices)
            found += hits_of(cell, spec.seed, self.examples, predictions)
        return found

    def predictions(self, reading: str, choices: Sequence[int | None]) -> Iterator[Prediction]:
        """The choices of a reading, without the outputs that it is made of."""
        for example, index in zip(self.examples, choices, strict=True):
            output = SideOutput(reading, "", "", index, None, 0)
            yield Prediction(example.example_id, output, self.spec.seed)

    def records(
        self,
        outputs: Mapping[str, Sequence[SideOutput]],
        tables: Mapping[str, Sequence[tuple[float, ...]]],
    ) -> list[dict[str, Any]]:
        """The rows of ``outputs.parquet``; only the first users' texts are kept."""
        likelihood = tables.get("likelihood")
        return [
            {
                "run": self.spec.name,
                "side": side,
                "example_id": example.example_id,
                "index": output.index,
                "perplexity": output.perplexity,
                "perplexity_output": output.perplexity_output,
                "num_tokens": output.num_tokens,
                "candidate_logprobs": output.candidate_logprobs or (likelihood and likelihood[n]),
                "text": output.text if n < 40 else None,
            }
            for side, found in outputs.items()
            for n, (example, output) in enumerate(zip(self.examples, found, strict=True))
        ]

    def counts(self, outputs: Mapping[str, Sequence[SideOutput]]) -> dict[str, Any]:
        """Valid outputs and generated tokens by side."""
        found: dict[str, Any] = {"num_users": len(self.examples)}
        for side, some in outputs.items():
            found[f"valid_{side}"] = round(sum(o.is_valid for o in some) / len(some), 4)
            found[f"tokens_{side}"] = round(sum(o.num_tokens for o in some) / len(some), 1)
        return found


def best(values: Sequence[float]) -> int | None:
    """The place of the largest value; None without values."""
    return int(np.argmax(values)) if len(values) else None


def subtract(
    first: Sequence[tuple[float, ...]], second: Sequence[tuple[float, ...]]
) -> list[tuple[float, ...]]:
    """The differences of two tables."""
    return [
        tuple(x - y for x, y in zip(a, b, strict=True)) if a else ()
        for a, b in zip(first, second, strict=True)
    ]


def encode_head(tokenizer: Any, domain: str) -> list[int]:
    """What stands before a history without a list, as in the baseline ``lm-gain``."""
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    return [*start, *encode_text(tokenizer, render_heading(domain))]


def encode_line(tokenizer: Any, title: str) -> list[int]:
    """A title's line of such a history."""
    return encode_text(tokenizer, render_line(title))


def encode_history(tokenizer: Any, query: Query, room: int = 900) -> list[int]:
    """A whole history without a list, without its oldest titles where it is too long."""
    head = encode_head(tokenizer, query.domain)
    lines = [encode_line(tokenizer, title) for title in query.history]
    return shorten(lambda n: [*head, *itertools.chain(*lines[n:])], query, room)[0]
