"""Inputs and outputs of text metrics: pairs of texts, values, and how they were measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Pair = tuple[str, str]
"""Hypothesis and reference."""

Anchor = Literal["itself", "another user's", "code"]
"""Text that a reference is compared with to test a judge."""


@dataclass(frozen=True)
class Scores:
    """The values of one metric over pairs.

    Attributes:
        values: One value per pair; None if the pair can't be measured.
        note: The model or library of the measurement, which affects its scale.
    """

    values: Sequence[float | None]
    note: str


@dataclass(frozen=True)
class JudgeFacts:
    """How a judge was asked, and how reliable it is.

    Attributes:
        model: Name of the judge.
        votes: Number of votes per pair.
        spread: Mean over pairs of the highest minus the lowest vote; None if no vote was readable.
        anchors: Mean mark of each kind of anchor; None if that kind has no pair.
        num_calls: Number of votes behind the marks and anchors, earlier runs included.
        failure_rate: Share of votes that could not be read.
        cost: Cost in the currency of the prices; None if a price is not set.
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
    """The judge's marks of some pairs.

    Attributes:
        values: The median of each pair's votes, from 0 to 100; None if no vote could be read.
        facts: How the judge was asked, and how reliable it is.
    """

    values: list[float | None]
    facts: JudgeFacts
