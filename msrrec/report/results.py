"""Typed results of reports and sweeps: ``report/results.json`` and ``sweep.json``."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from msrrec.embedded.ceiling import Ceiling
from msrrec.evaluation.consistency import ChangedChoices
from msrrec.evaluation.document import Document, Result
from msrrec.evaluation.results import Metric, RuleResult
from msrrec.evaluation.systems import SystemId
from msrrec.metrics.ranking import FullRanking, LenientMetrics
from msrrec.metrics.reasoning import ReasoningMetrics
from msrrec.metrics.statistics import Paired, Share


@dataclass(frozen=True)
class AdjustedPaired(Paired):
    """A paired test that is one of several.

    Attributes:
        p_adjusted: After Holm's correction over all rows of the table.
        detectable: The smallest difference found with probability 0.8 on these users, at the level
            of Holm's first step; None if even the largest possible one would not be.

    ``low`` and ``high`` are the uncorrected interval of this difference.
    """

    p_adjusted: float
    detectable: float | None


class SystemRow(Result):
    """One line of the table: a system in one variant."""

    system: SystemId
    variant: str
    label: str
    """Name of the row: the system's label, and the variant if there are several."""
    domain: str
    users: str
    """Key of the evaluated users; rows with equal keys are compared user by user."""
    seed: int
    is_trained: bool
    """Whether its weights were fitted on the training split."""
    num_users: int
    chance: float
    hit_ratio: Share
    valid_ratio: Share
    hit_ratio_valid: Share | None
    hit_ratio_fallback: Share | None = None
    """With a random candidate in place of an invalid choice."""
    lenient: LenientMetrics | None = None
    ranking: FullRanking | None = None
    reasoning: ReasoningMetrics | None = None
    meteor: Share | None = None
    bertscore_f1: Share | None = None
    gptscore_logprob: Share | None = None
    judge_0_100: Share | None = None
    paired: AdjustedPaired | None = None
    """The test of the reference row (first) against this one; None for the reference row itself and
    for other users."""


class SeedSpread(Result):
    """HitRatio@1 over the seeds of one system on the same users."""

    label: str
    mean: float
    sd: float
    values: dict[int, float]
    """HitRatio@1 by seed."""


class StudyRow(RuleResult):
    """One fusion rule, as the page shows it."""

    label: str
    p_adjusted: float | None = None
    """After Holm's correction over the rules; None for Eq. 3 and the oracle."""


class ReportResult(Document):
    """All figures of a report."""

    FILE: ClassVar[str] = "report/results.json"
    KIND: ClassVar[str] = "msrrec-report"
    WHAT: ClassVar[str] = "a report"
    VERSION: ClassVar[int] = 2
    MADE_BY: ClassVar[str] = "msrrec report"

    systems: tuple[SystemRow, ...]
    failures: dict[str, str]
    """Reasons why systems have no result, by name."""
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    seeds: tuple[SeedSpread, ...]
    changed_choices: tuple[ChangedChoices, ...]
    fusion_study: tuple[StudyRow, ...]
    ceiling: Ceiling | None = None
    """The best that any system can reach on the reference row's users, in a generated world."""


class PointVariant(Result):
    """One variant at one point of a sweep."""

    hit_ratio: Share
    valid_ratio: Share
    scores: dict[Metric, Share] = Field(default_factory=dict)
    """Mean scores of the reasoning over users with a reference; empty if it was not scored."""


class SweepPoint(Result):
    """The result at one alpha."""

    alpha: float
    beta: float
    folder: str
    loss_rea: float | None
    """Mean over the last training steps; None without reasoning."""
    loss_rec: float
    num_users: int
    chance: float
    variants: dict[str, PointVariant]
    num_references: int = 0
    """Users whose reasoning was scored against a teacher's correct path."""
    scored_with: dict[Metric, str] = Field(default_factory=dict)
    """The model or library behind each score."""


class SweepResult(Document):
    """The result of a sweep; the models and evaluations of its points are in folders below it."""

    FILE: ClassVar[str] = "sweep.json"
    KIND: ClassVar[str] = "msrrec-sweep"
    WHAT: ClassVar[str] = "a sweep"
    VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "msrrec sweep"

    split: Literal["validation", "test"]
    points: tuple[SweepPoint, ...]
    """The points by rising alpha."""
    best_alpha: dict[str, float]
    """The best alpha by variant."""
