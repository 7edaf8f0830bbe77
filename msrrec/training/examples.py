"""From dataset and reasoning paths to token ids and the segment of each token.

Prompts come from the functions that inference uses. Reasoning and recommendation are tokenised
separately, so the border between their losses never falls inside a token.
"""

import hashlib
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrrec import schema, storage
from msrrec.config import PromptConfig, TrainConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leakage import later_items, shows_later
from msrrec.errors import DataError
from msrrec.log import Progress
from msrrec.models import SupervisedTokens
from msrrec.reasoning.encoding import (
    Query,
    encode_closing,
    encode_prompt,
    encode_text,
    fit_prompt,
    shorten,
)
from msrrec.reasoning.prompts import (
    Side,
    project_steps,
    render_answers,
    render_facts_prompt,
    render_reasoning,
)
from msrrec.schema import Example
from msrrec.training.arms import encode_facts, encode_filler, swap_paths
from msrrec.training.loss import NOT_SUPERVISED, REASONING, RECOMMENDATION
from msrrec.training.packing import Pair

logger = logging.getLogger(__name__)

Steps = tuple[str, ...]

_BLOCK = 10_000
"""Examples whose tokens are counted at once."""

_NO_PATH: Steps = ("",) * 5
"""Stands for a path where only its place counts."""


@dataclass(frozen=True)
class Encoded:
    """One training example.

    Attributes:
        input_ids: Prompt, reasoning, recommendation, end token.
        segments: One per token, see ``loss``.
        dropped: Number of history titles left out to make the prompt fit.
        is_beside: Whether it is learned in the same step as the example before it.
    """

    input_ids: list[int]
    segments: list[int]
    dropped: int
    is_beside: bool = False


@dataclass(frozen=True)
class ExampleSet:
    """All training examples, one after another in flat arrays; N examples, T tokens in all.

    A unit takes one place in a batch: an example, with those that are learned beside it.

    Attributes:
        input_ids: (T,).
        segments: (T,).
        offsets: (N + 1,). Example i has the tokens from offsets[i] to offsets[i + 1].
        num_reasoning: Examples with a reasoning path; the others are behaviour-only.
        num_shortened: Examples whose oldest history was left out.
        units: (U,). The first example of each unit.
    """

    input_ids: NDArray[np.int32]
    segments: NDArray[np.int8]
    offsets: NDArray[np.int64]
    num_reasoning: int
    num_shortened: int
    units: NDArray[np.int64]

    def examples_of(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """The examples of a batch of units, unit by unit."""
        if len(self.units) == len(self):
            return batch
        ends = np.append(self.units, len(self))
        return np.concatenate([np.arange(ends[unit], ends[unit + 1]) for unit in batch])

    def count_supervised(self, batches: Iterable[NDArray[np.int64]]) -> SupervisedTokens:
        """The tokens that training on some batches of units supervises."""
        times = np.zeros(len(self), np.int64)
        for batch in batches:
            times[self.examples_of(batch)] += 1
        reasoning, recommendation = (
            int(times @ self._count(kind)) for kind in (REASONING, RECOMMENDATION)
        )
        return SupervisedTokens(reasoning=reasoning, recommendation=recommendation)

    def _count(self, kind: int) -> NDArray[np.int64]:
        """Tokens of one kind of segment in each example, (N,), counted a block at a time."""
        found = np.empty(len(self), np.int64)
        for begin in range(0, len(self), _BLOCK):
            ends = self.offsets[begin : begin + _BLOCK + 1]
            is_kind = self.segments[ends[0] : ends[-1]] == kind
            found[begin : begin + _BLOCK] = np.add.reduceat(
                is_kind, ends[:-1] - ends[0], dtype=np.int64
            )
        return found

    @classmethod
    def collect(cls, examples: Iterable[Encoded]) -> "ExampleSet":
        """An example set made of single examples, at least one, of which none is kept as such."""
        ids, segments, ends, units = array("i"), array("b"), array("q", [0]), array("q")
        num_reasoning = num_shortened = 0
        for example in examples:
            if not example.is_beside:
                units.append(len(ends) - 1)
            ids.extend(example.input_ids)
            segments.extend(example.segments)
            ends.append(len(ids))
            num_reasoning += REASONING in example.segments
            num_shortened += example.dropped > 0
        return cls(
            input_ids=np.frombuffer(ids, np.int32),
            segments=np.frombuffer(segments, np.int8),
            offsets=np.frombuffer(ends, np.int64),
            num_reasoning=num_reasoning,
            num_shortened=num_shortened,
            units=np.frombuffer(units, np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Pair:
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self.input_ids[span], self.segments[span]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, (N,)."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        """A hash that changes with any token, and with what is learned in one step."""
        digest = hashlib.sha256()
        columns = [self.input_ids, self.segments, self.offsets]
        columns += [self.units] * (len(self.units) < len(self))
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


def build_examples(
    dataset: Dataset,
    paths: Mapping[str, Steps] | None,
    tokenizer: Any,
    config: TrainConfig,
    form: PromptConfig,
) -> ExampleSet:
    """The training examples of a dataset, in its order.

    Args:
        dataset: Its train split is used.
        paths: The five steps of each kept path, by example id; the others train on behaviour alone.
            None, only for the arm without reasoning, lets every example count as one with a path.
        tokenizer: The base model's.
        config: Arm, sides, behaviour, and the longest example.
        form: How prompts and answers are written.

    Raises:
        DataError: If an example does not fit even with only its latest history title, or there are
            no examples.
    """
    if config.arm == "placebo":
        paths = _swap(dataset, paths, config.seed)
    encoder = ArmEncoder(dataset, tokenizer, config, form)

    def encode_all() -> Iterator[Encoded]:
        num_examples = dataset.partitions("train").num_examples
        with Progress("tokenize", num_examples, "examples") as progress:
            for example in iter_training_examples(dataset):
                path = _NO_PATH if paths is None else paths.get(example.example_id)
                yield from encoder.encode(example, path)
                progress.advance()

    return ExampleSet.collect(encode_all())


def build_validation(
    dataset: Dataset, tokenizer: Any, config: TrainConfig, form: PromptConfig
) -> ExampleSet:
    """The first examples of the validation split, without reasoning, as no teacher saw them.

    Raises:
        DataError: If an example does not fit even with only its latest history title, or there are
            no examples.
    """
    examples = dataset.examples("validation", config.validation_examples)
    if not examples:
        raise DataError(
            f"{dataset.path}/validation.parquet: holds no examples; prepare with more users, or "
            "set train.validate_every_steps=0"
        )
    max_tokens = min(config.max_seq_len, tokenizer.model_max_length)

    def encode(example: Example) -> Encoded:
        query = make_query(dataset, example)
        answer = _answer(query, example, form)
        return encode_example(tokenizer, query, "direct", (), answer, form, max_tokens)

    return ExampleSet.collect(map(encode, examples))


def iter_training_examples(dataset: Dataset) -> Iterator[Example]:
    """The training examples that show no validation or test item of their user, one by one.

    An example can show one when a user buys an item again later.

    Raises:
        DataError: At the end, if there is none.
    """
    later, num_kept, num_left_out = later_items(dataset), 0, 0
    for example in dataset.iter_examples("train"):
        shown = dataset.titles((*example.history, *example.candidates))
        if shows_later(shown, dataset.titles(later.get(example.user_id, ()))):
            num_left_out += 1
            continue
        num_kept += 1
        yield example
    if num_left_out:
        logger.info("train: left out %d examples that show held-out items", num_left_out)
    if not num_kept:
        raise DataError(
            f"{dataset.path}/train.parquet: holds no examples that show no later "
            "purchase of their user; prepare with more users"
        )


def _swap(dataset: Dataset, paths: Mapping[str, Steps] | None, seed: int) -> dict[str, Steps]:
    """The paths of other users' examples, by the example that they are given to."""
    examples = [
        example
        for example in iter_training_examples(dataset)
        if paths is None or example.example_id in paths
    ]
    known = dict.fromkeys((e.example_id for e in examples), _NO_PATH) if paths is None else paths
    return swap_paths(known, examples, seed)


def load_paths(reasoning_dir: str, examples: Iterable[Example]) -> dict[str, Steps]:
    """The steps of the kept paths, by example id.

    Raises:
        DataError: If a path belongs to no example, recommends another item than its example's
            target, or has not five steps: the folder was made from another dataset.
    """
    path = storage.join(reasoning_dir, schema.PATHS_FILE)
    asked = {row["example_id"] for row in storage.iter_rows(path, schema.PATHS, ("example_id",))}
    targets = {e.example_id: e.target for e in examples if e.example_id in asked}
    paths: dict[str, Steps] = {}
    for row in storage.iter_rows(path, schema.PATHS, ("example_id", "steps", schema.ITEM_ID)):
        key = row["example_id"]
        if targets.get(key) != row[schema.ITEM_ID] or len(row["steps"]) != 5:
            raise DataError(
                f"{path}: the path of example {key!r} recommends {row[schema.ITEM_ID]!r} in "
                f"{len(row['steps'])} steps; expected {targets.get(key)!r} in 5; name the "
                "reasoning folder that was synthesized from this dataset"
            )
        paths.setdefault(key, tuple(row["steps"]))
    return paths


def encode_example(
    tokenizer: Any,
    query: Query,
    side: Side,
    steps: Sequence[str],
    answer: str,
    form: PromptConfig,
    max_tokens: int,
) -> Encoded:
    """One example as tokens, without its oldest history titles if it is too long.

    Args:
        tokenizer: The base model's.
        query: History and candidates.
        side: The chain; ``direct`` for behaviour-only examples.
        steps: One text per step of the chain, none for ``direct``.
        answer: As ``render_answer`` writes it.
        form: How the prompt is written.
        max_tokens: Longest example, prompt and output together.

    Raises:
        DataError: If it does not fit even with only its latest title.
    """
    reasoning = encode_text(tokenizer, render_reasoning(side, steps)) if steps else []
    return join_example(tokenizer, query, side, reasoning, answer, form, max_tokens)


def join_example(
    tokenizer: Any,
    query: Query,
    side: Side,
    reasoning: Sequence[int],
    answer: str,
    form: PromptConfig,
    max_tokens: int,
) -> Encoded:
    """One example around the token ids of its reasoning; see ``encode_example``."""
    recommendation = encode_recommendation(tokenizer, answer)
    room = max_tokens - len(reasoning) - len(recommendation)
    try:
        prompt, dropped = fit_prompt(tokenizer, side, query, form, room)
    except DataError as error:
        raise DataError(
            f"example {query.key}: its output of {len(reasoning) + len(recommendation)} tokens "
            f"leaves {room} for the prompt, too few for one history title and "
            f"{len(query.candidates)} candidates; raise train.max_seq_len ({max_tokens})"
        ) from error
    segments = [NOT_SUPERVISED] * len(prompt) + [REASONING] * len(reasoning)
    segments += [RECOMMENDATION] * len(recommendation)
    return Encoded([*prompt, *reasoning, *recommendation], segments, dropped)


def encode_recommendation(tokenizer: Any, answer: str) -> list[int]:
    """Token ids from the end marker to the end token.

    The answer contains an untrusted title, so nothing in it becomes a special token.
    """
    return [
        *encode_closing(tokenizer),
        *encode_text(tokenizer, answer),
        tokenizer.eos_token_id,
    ]


def make_query(dataset: Dataset, example: Example) -> Query:
    """An example as titles instead of item ids."""
    return Query(
        key=example.example_id,
        domain=dataset.domain,
        history=tuple(dataset.titles(example.history)),
        candidates=tuple(dataset.titles(example.candidates)),
    )


def _answer(query: Query, example: Example, form: PromptConfig) -> str:
    return render_answers(query.candidates, form)[example.candidates.index(example.target)]


@dataclass(frozen=True)
class ArmEncoder:
    """Encodes the training examples of one arm; see ``TrainConfig.arm``."""

    dataset: Dataset
    tokenizer: Any
    config: TrainConfig
    form: PromptConfig

    @property
    def max_tokens(self) -> int:
        """Longest example, prompt and output together."""
        return int(min(self.config.max_seq_len, self.tokenizer.model_max_length))

    def encode(self, example: Example, path: Steps | None) -> list[Encoded]:
        """What one example teaches: an item for each chain of its path, or its purchase alone."""
        query = make_query(self.dataset, example)
        answer = _answer(query, example, self.form)
        found: list[Encoded] = []
        for side, steps in _chains(self.config, path):
            found += self._encode_chain(example, query, side, steps, answer)
        return found

    def _encode_chain(
        self, example: Example, query: Query, side: Side, steps: Steps, answer: str
    ) -> list[Encoded]:
        """The examples that stand in this arm where the chains have one of these steps."""
        arm, beside = self.config.arm, []
        reasoning = encode_text(self.tokenizer, render_reasoning(side, steps)) if steps else []
        if reasoning and arm == "filler":
            reasoning = encode_filler(self.tokenizer, len(reasoning))
        if reasoning and arm == "facts":
            beside = [self._encode_facts(example, query, len(reasoning))]
        if arm in ("none", "facts"):
            side, reasoning = "direct", []
        joined = join_example(
            self.tokenizer, query, side, reasoning, answer, self.form, self.max_tokens
        )
        return [joined, *beside]

    def _encode_facts(self, example: Example, query: Query, count: int) -> Encoded:
        """The categories of an example's items, asked apart, in a number of supervised tokens."""

        def encode(dropped: int) -> list[int]:
            titles = query.history[dropped:], query.candidates
            prompt = render_facts_prompt(query.domain, *titles, self.form)
            with_template = self.form.use_chat_template
            return encode_prompt(self.tokenizer, prompt, prefix="", use_chat_template=with_template)

        prompt, dropped = shorten(encode, query, self.max_tokens - count)
        shown = (example.history[dropped:], example.candidates)
        history, candidates = ([self.dataset.items[i] for i in ids] for ids in shown)
        facts = encode_facts(self.tokenizer, history, candidates, count)
        segments = [NOT_SUPERVISED] * len(prompt) + [REASONING] * count
        return Encoded([*prompt, *facts], segments, dropped, is_beside=True)


def _chains(config: TrainConfig, path: Steps | None) -> list[tuple[Side, Steps]]:
    """The chains to train on for one example, each with its steps."""
    chains: list[tuple[Side, Steps]] = []
    if path is not None:
        chains += [(side, project_steps(side, path)) for side in config.sides]
    if not chains or config.behaviour == "all":
        chains.append(("direct", ()))
    return chains
