"""The project's files: column names, Arrow schemas, and the records used in code.

Column names are spelled only here. One example has one target. Its ``candidates`` are frozen when
the dataset is prepared, so every system sees the same order.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 1

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
RATING = "rating"
TITLE = "title"
CATEGORIES = "categories"
BRAND = "brand"
DESCRIPTION = "description"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

ITEMS = pa.schema(
    [
        pa.field(ITEM_ID, pa.string(), nullable=False),
        pa.field(TITLE, pa.string(), nullable=False),
        pa.field(CATEGORIES, pa.list_(pa.string())),
        pa.field(BRAND, pa.string()),
        pa.field(DESCRIPTION, pa.string()),
    ]
)
"""``items.parquet``. Categories from the widest to the narrowest."""

EXAMPLES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field(USER_ID, pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
    ]
)
"""``train|validation|test.parquet``. History oldest first; item ids throughout."""

USERS = pa.schema(
    [
        pa.field(USER_ID, pa.string(), nullable=False),
        pa.field("items", pa.list_(pa.string()), nullable=False),
    ]
)
"""``users.parquet``: every event of every user, oldest first; the histories of examples are parts
of it."""

PATHS_FILE = "paths.parquet"
PATHS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("steps", pa.list_(pa.string()), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field(ITEM_ID, pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("served_model", pa.string()),
        pa.field("teacher", pa.string()),
        pa.field("prompt_hash", pa.string()),
        pa.field("attempt", pa.int64()),
        pa.field("answered_at_s", pa.float64()),
        pa.field("journal", pa.string()),
    ]
)
"""``paths.parquet``: the kept reasoning paths, five steps each, and their origin: requested model,
answering model, teacher, prompt, number of the sample, time in Unix seconds, and file and line in
the journal."""

VERDICTS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("rule", pa.string()),
    ]
)
"""``verdicts.parquet``: the verdict on every completion in the journal: ``kept``, or the reason why
not; and the rule by which its step 5 names a candidate, null where it names none."""

_OUTPUT = (
    pa.field("example_id", pa.string(), nullable=False),
    pa.field("side", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("reasoning", pa.string(), nullable=False),
    pa.field("perplexity", pa.float64()),
    pa.field("num_tokens", pa.int64(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("perplexity_output", pa.float64()),
    pa.field("perplexity_unconditional", pa.float64()),
    pa.field("candidate_logprobs", pa.list_(pa.float64())),
)
"""The fields of a generated text, named as in ``inference.predictions``."""

PREDICTIONS = pa.schema(
    [*_OUTPUT, pa.field(ITEM_ID, pa.string()), pa.field("candidate_scores", pa.list_(pa.float64()))]
)
"""``<variant>.parquet``. ``item_id`` is null if the output is invalid. ``side`` is the side that
wrote the output; for the fused variant it is the chosen side. ``perplexity`` is that of the
reasoning given the prompt, ``perplexity_output`` that of reasoning and answer,
``perplexity_unconditional`` that of the reasoning without the prompt. ``candidate_logprobs`` holds
the log-likelihood of each candidate after the reasoning, in the frozen order: of its number, or of
its title where answers are bare titles. ``candidate_scores`` holds a baseline's scores. Values that
were not measured are null."""

OUTPUTS = pa.schema(
    [
        *_OUTPUT,
        pa.field("index", pa.int64()),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("failure", pa.string()),
    ]
)
"""Outputs of batch inference and of its journal. ``index`` is the 0-based candidate, ``error`` the
reason why an example was refused, ``failure`` the reason why its engine could not work."""


@dataclass(frozen=True)
class Item:
    """One item of the catalogue."""

    item_id: str
    title: str
    categories: tuple[str, ...] = ()
    brand: str | None = None


@dataclass(frozen=True)
class Example:
    """One user at one moment: the history, the candidates and the target.

    Attributes:
        history: Item ids, oldest first, at least one.
        candidates: Item ids in the frozen order; the target is one of them, unless they were
            retrieved and it was not found.
    """

    example_id: str
    user_id: str
    history: tuple[str, ...]
    target: str
    candidates: tuple[str, ...]

    @property
    def target_slot(self) -> int:
        """0-based place of the target among the candidates; -1 if it is none of them."""
        return self.candidates.index(self.target) if self.target in self.candidates else -1
