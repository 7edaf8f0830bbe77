"""Typed results of an evaluation: ``report/metrics.json`` and ``report/reasoning.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from msrrec.config.baselines import BaselinesConfig
from msrrec.config.evaluate import EvaluateConfig
from msrrec.config.inference import InferenceConfig
from msrrec.config.prompt import PromptConfig
from msrrec.config.train import Arm
from msrrec.embedded.ceiling import Ceiling
from msrrec.evaluation.document import Document, Result
from msrrec.evaluation.systems import SystemId
from msrrec.inference.fusion import Agreement, Gate
from msrrec.metrics.anchors import TextAnchor
from msrrec.metrics.coverage import Coverage
from msrrec.metrics.ranking import LenientMetrics, RankMetrics
from msrrec.metrics.reasoning import ReasoningMetrics
from msrrec.metrics.scores import JudgeFacts
from msrrec.metrics.statistics import Paired, Share
from msrrec.models import SupervisedTokens
from msrrec.reasoning.prompts import Side
from msrrec.stage import Summary
from msrrec.titles import Rung


class DatasetId(Result):
    """The examples of an evaluation; two evaluations are comparable if these are equal."""

    path: str
    domain: str
    fingerprint: str
    negatives: str
    """How negatives were found; ``frozen`` ones are the dataset's own."""
    num_negatives: int | None
    """Number of negatives if drawn anew; None for the dataset's own."""


class Check(Result):
    """One line of the audit."""

    name: str
    ok: bool
    text: str
    """What was examined, and the violations found."""


@dataclass(frozen=True)
class VariantResult(RankMetrics):
    """One variant of a system.

    Attributes:
        reasoning: Figures of the outputs that have a chain; None if none has.
        outputs_hash: Hash of all outputs and choices.
        lenient: Metrics of the same outputs under ``read_lenient``; None of a system that scores.
        rungs: Number of users by how their answer names a candidate, see ``read_title``; empty of a
            system that scores. The text of a fused answer is the chosen side's.
    """

    reasoning: ReasoningMetrics | None
    outputs_hash: str
    lenient: LenientMetrics | None = None
    rungs: Mapping[Rung, int] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantPair(Paired):
    """The paired test between two variants of one system."""

    first: str
    second: str


class ModelFacts(Result):
    """The weights that were loaded."""

    model_dir: str
    weights: str
    adapter: str | None
    revision: str | None
    weights_hash: str | None
    """Hash of all weight files; None if they are not on this machine."""
    form: PromptConfig
    """How the model was prompted."""
    arm: Arm | None = None
    """What it was trained to write before its answers; None for a base model."""
    supervised_tokens: SupervisedTokens | None = None
    """How many tokens it was trained to write; None where that is not recorded."""

    @model_validator(mode="before")
    @classmethod
    def _read_answer_format(cls, values: Any) -> Any:
        """Take the answer format that stands in place of a form in older files."""
        if not isinstance(values, Mapping) or "answer_format" not in values:
            return values
        known = {name: value for name, value in values.items() if name != "answer_format"}
        return {"form": {"answer_format": values["answer_format"]}, **known}


class Refused(Result):
    """A sample that was refused, and why."""

    example_id: str
    side: str
    error: str


class Errors(Result):
    """How many samples were refused, and the first of them."""

    num_refused: int
    num_deadly: int = 0
    """Those among them that were given up because they killed their engines."""
    first: tuple[Refused, ...]


class Speed(Result):
    """How fast this run was; outputs finished by an earlier run are counted separately."""

    num_resumed: int
    wall_s: float
    num_tokens: int
    tokens_per_s: float


class SideMetrics(Result):
    """Length and perplexity of one side's outputs."""

    num_outputs: int
    mean_tokens: float
    median_perplexity: float | None


class CaseSide(Result):
    """One side's output in a case study."""

    reasoning: str
    text: str
    index: int | None
    """The 0-based candidate that it names."""
    perplexity: float | None


class Case(Result):
    """One user in full: titles, every side's output, and the choice."""

    example_id: str
    agreement: Agreement
    is_hit: bool
    history: tuple[str, ...]
    candidates: tuple[str, ...]
    target: int
    """The 0-based candidate that is the target."""
    index: int | None
    """The 0-based candidate that was chosen."""
    side: str | None
    """The side that won."""
    sides: dict[str, CaseSide]


class FusionCount(Result):
    """Number of users, and which sides won and were right."""

    num_users: int
    user_wins: int
    item_wins: int
    user_hits: int
    item_hits: int
    fused_hits: int


class Histogram(Result):
    """Counts of perplexities in bins of equal width on a log scale, by agreement of the sides."""

    edges: tuple[float, ...]
    """Edges of the bins, one more than bins; empty if no perplexity was measured."""
    agree: tuple[int, ...]
    differ: tuple[int, ...]


@dataclass(frozen=True)
class AgainstSide(Paired):
    """The paired test of fusion (first) against the better side alone (second)."""

    side: Side


class RuleResult(Result):
    """What one fusion rule would have chosen."""

    rule: str
    num_hits: int
    hit_ratio: Share | None
    hit_ratio_differ: Share | None
    """HitRatio@1 of the users whose sides differ; None if there are none."""
    against_eq3: Paired | None
    """The rule (first) against Eq. 3 (second); None for Eq. 3 itself."""
    expected: float | None = None
    """The expected HitRatio@1 over all throws; only of the coin."""
    chosen: str | None = None
    """The rule with the most hits on validation; only of the row that reports it."""


class Conflicts(Result):
    """Users whose sides name different items of which exactly one is right."""

    num_users: int
    num_right: int
    """Users for whom Eq. 3 takes the right one."""
    p_value: float
    """Exact two-sided binomial test against a coin; 1 without users."""


class FusionResult(Result):
    """Fusion in figures."""

    total: FusionCount
    by_agreement: dict[Agreement, FusionCount]
    gain: int
    """Hits of fusion minus hits of the better side alone."""
    against_better: AgainstSide
    perplexity: Histogram
    conflicts: Conflicts | None = None
    study: tuple[RuleResult, ...] = ()
    gate: Gate | None = None
    """The gate in the study, fitted on validation."""


class RouteEnd(Result):
    """What one way to answer hits and costs."""

    hit_ratio: Share
    tokens_per_user: float
    """Mean number of generated tokens."""


class RoutingResult(Result):
    """Direct answers where they are confident, chains and fusion elsewhere."""

    threshold: float
    """A user thinks whose direct answer is less likely than this; 0 is nobody, 1 everybody."""
    is_chosen_here: bool
    """Whether these users chose it, so that its hits are flattering; only on validation."""
    thinking: Share
    """Share of the users that think."""
    routed: RouteEnd
    never: RouteEnd
    """Only direct answers."""
    always: RouteEnd | None
    """Both chains for everyone, fused; None where chains were generated for some users alone."""
    against_never: Paired
    """The route (first) against never thinking (second)."""
    against_always: Paired | None


class CalibrationResult(Result):
    """Whether the probability of the recommended item is the share of users for whom it is right.

    Probabilities are means over the sides; an error is the expected calibration error, in 15 bins.
    """

    num_users: int
    """Users with a recommendation and likelihoods of all candidates."""
    mean_confidence: float
    error: float
    temperature: float | None
    """What log-probabilities are divided by; None where validation taught none."""
    is_chosen_here: bool
    """Whether these users chose it, so that its error is flattering; only on validation."""
    tempered_error: float | None
    """The error with the temperature."""


class RateTrial(Result):
    """A learning rate that was tried, and what it gave on validation."""

    learning_rate: float
    hit_ratio: float
    """HitRatio@1 of the variant that is reported last."""


class TrialResult(Result):
    """One trial of a sequential system."""

    learning_rate: float
    dropout: float
    size: int
    validation: float
    """MRR among the frozen candidates of validation, at the best epoch."""
    best_epoch: int
    epochs: int
    epoch_s: float | None


class SequentialFit(Result):
    """How a sequential system was fitted."""

    events_per_item: float
    best: TrialResult
    trials: tuple[TrialResult, ...]


class FitResult(Result):
    """How a baseline was fitted."""

    wall_s: float
    sequential: SequentialFit | None = None
    """Only for baselines that are fitted by trials."""
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """Facts about the fit of any other baseline."""


class ApiFacts(Result):
    """Counts of the requests to a model behind an API."""

    calls: int
    unanswered: int
    """Users without any completion."""
    samples: int | None = None
    """Completions that name a candidate."""
    verified: int | None = None
    """Samples whose rationale was verified."""
    recovered: int | None = None
    """Samples from whose rationale alone the same candidate was recovered."""


ReadBy = Literal["item_id", "scores", "text"]
"""The column of a file that decides its choices."""


class FileFacts(Result):
    """The file that a system's choices come from, and what in it could not be used."""

    name: str
    digest: str
    """Hash of its content."""
    read_by: ReadBy
    num_rows: int
    num_missing: int
    """Evaluated examples without a row; they are misses."""
    num_unknown: int
    """Ids that are not in the split."""
    num_repeated: int
    """Examples with several rows; the first counts."""
    num_foreign: int
    """Chosen items that are no candidates; they are misses."""
    num_misshapen: int
    """Rows whose scores are not one finite number per candidate."""


class EvaluationConfig(Result):
    """The settings that decide an evaluation."""

    inference: InferenceConfig
    evaluate: EvaluateConfig
    baselines: BaselinesConfig


class Details(Result):
    """Parts of a result that only some kinds of systems have."""

    model: ModelFacts | None = None
    errors: Errors | None = None
    speed: Speed | None = None
    sides: dict[Side, SideMetrics] = Field(default_factory=dict)
    rate_trials: tuple[RateTrial, ...] = ()
    """The learning rates that were tried, where there was a choice."""
    generated_tokens: dict[str, float] = Field(default_factory=dict)
    """Mean number of tokens generated per user, by variant; a fused one needs both sides."""
    cases: tuple[Case, ...] = ()
    fusion: FusionResult | None = None
    routing: RoutingResult | None = None
    calibration: dict[str, CalibrationResult] = Field(default_factory=dict)
    """By variant, where likelihoods of all candidates were measured."""
    fit: FitResult | None = None
    api: ApiFacts | None = None
    file: FileFacts | None = None


class EvaluationResult(Document, Details):
    """All figures of one evaluation; its predictions are in files beside it."""

    FILE: ClassVar[str] = "report/metrics.json"
    KIND: ClassVar[str] = "msrrec-evaluation"
    WHAT: ClassVar[str] = "an evaluation"
    VERSION: ClassVar[int] = 2
    MADE_BY: ClassVar[str] = "msrrec evaluate"

    system: SystemId
    dataset: DatasetId
    split: Literal["validation", "test"]
    num_users: int
    num_candidates: dict[int, int]
    """Number of users by length of the candidate list."""
    chance: float
    """The expected HitRatio@1 of a random choice."""
    variants: dict[str, VariantResult]
    audit: tuple[Check, ...]
    paired: tuple[VariantPair, ...]
    """Paired tests of fusion against each other variant, and of the route against each."""
    config: EvaluationConfig
    ceiling: Ceiling | None = None
    """The best that any system can reach on these examples; only known of a generated world."""
    coverage: Coverage | None = None
    """How often the target is among the candidates at all; only where they were retrieved."""

    @property
    def weights_hash(self) -> str | None:
        """The hash of the weights that were loaded; None where there are none or none is known."""
        return self.model.weights_hash if self.model else None


Metric = Literal["meteor", "bertscore_f1", "gptscore_logprob", "judge_0_100"]
"""The metrics that compare a reasoning with its reference."""


class MetricScore(Result):
    """One metric of one variant."""

    all: Share | None
    """Mean over all users with a reference."""
    correct: Share | None
    """Mean over users whose target the variant chose."""
    num_users: int
    """Number of users with a reference."""


class AnchorScore(Result):
    """What a text of known worth gets in one metric."""

    mean: Share | None
    num_pairs: int
    """Number of references that it was compared with."""


class ReasoningScores(Document):
    """The reasonings of an evaluation against the teacher's correct paths."""

    FILE: ClassVar[str] = "report/reasoning.json"
    KIND: ClassVar[str] = "msrrec-scores"
    WHAT: ClassVar[str] = "scores of reasonings"
    VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "msrrec score"

    references: str
    """Folder of the reference paths."""
    num_references: int
    num_users: int
    notes: dict[Metric, str]
    """The model or library behind each metric, which affects its scale."""
    judge: JudgeFacts | None
    variants: dict[str, dict[Metric, MetricScore]]
    cases: dict[str, str | None]
    """The references of the case studies, by example id."""
    anchors: dict[TextAnchor, dict[Metric, AnchorScore]] = Field(default_factory=dict)
    """What texts of known worth get in place of a reasoning; empty in older files."""

    @property
    def measured_with(self) -> dict[Metric, str]:
        """What each metric was measured with, the judge's model included."""
        if self.judge is None:
            return self.notes
        return {**self.notes, "judge_0_100": f"{self.judge.model}, median of {self.judge.votes}"}

    def summary(self) -> Summary:
        """The figures that the command prints, without texts."""
        return dict(self.model_dump(mode="json", exclude={"cases"}))
