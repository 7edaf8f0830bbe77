"""What metrics of texts take and give: pairs of texts, figures, and how they were measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Pair = tuple[str, str]
"""Hypothesis and reference."""

Anchor = Literal["itself", "another user's", "code"]
"""What a reference is held against to see whether a judge can be trusted."""


@dataclass(frozen=True)
class Scores:
    """One metric over pairs.

    Attributes:
        values: One a pair; None where the pair can't be measured.
        note: With what it was measured, which decides how high it is.
    """

    values: Sequence[float | None]
    note: str


@dataclass(frozen=True)
class JudgeFacts:
    """How a judge was asked and what it is worth.

    Attributes:
        model: Its name.
        votes: Votes a pair.
        spread: Highest minus lowest vote of a pair, on average; None where no vote was readable.
        anchors: Mean mark of each kind of anchor; None where that kind has no pair.
        num_calls: Votes that the marks and anchors rest on, earlier runs' included.
        failure_rate: Share of them that could not be read.
        cost: In the currency of the prices; None where a price is not set.
    """

    model: str
    votes: int
    spread: float | None
    anchors: dict[Anchor, float | None]
    num_calls: int
    failure_rate: float
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(frozen=True)
class Judged:
    """The marks of some pairs.

    Attributes:
        values: The median of each pair's votes, from 0 to 100; None where none could be read.
        facts: How they were made.
    """

    values: list[float | None]
    facts: JudgeFacts
