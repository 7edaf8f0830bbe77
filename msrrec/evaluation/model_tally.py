"""What a model's outputs say about each variant, and the figures that only a model has."""

import logging
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from msrrec.config import PromptConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.agreement import FusionTally
from msrrec.evaluation.calibration import CalibrationTally
from msrrec.evaluation.cases import CasePicker
from msrrec.evaluation.fusion_study import Learned, Sides, StudyTally
from msrrec.evaluation.results import (
    CalibrationResult,
    Details,
    Errors,
    FusionResult,
    ModelFacts,
    Refused,
    RoutingResult,
    SideMetrics,
    Speed,
)
from msrrec.evaluation.routing import RouteTally
from msrrec.evaluation.write import DEAD_LETTERS, EvaluatedPart
from msrrec.inference.batch import Answered
from msrrec.inference.engine_pool import DEADLY
from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.predictions import Prediction
from msrrec.inference.recommender import Mode, Recommender, sides_of
from msrrec.reasoning.prompts import Side
from msrrec.reasoning.reading import read_lenient
from msrrec.schema import Example, Split
from msrrec.titles import show_titles

logger = logging.getLogger(__name__)

NO_SIDE = "none"
"""The ``side`` of a fused prediction if neither side was valid."""

_MAX_ERRORS = 20
_NOBODY = SideOutput(NO_SIDE, "", "", None, None, 0)

Outputs = dict[Side, SideOutput]
"""The outputs of one example, by side."""


@dataclass(frozen=True)
class Reading:
    """How the outputs of a model are read.

    Attributes:
        variants: What is read of them.
        threshold: Of the route; None where none is known.
        form: How the model was prompted.
        split: The evaluated split.
        learned: What a study on validation teaches.
    """

    dataset: Dataset
    variants: tuple[Mode, ...]
    threshold: float | None
    form: PromptConfig
    split: Split
    learned: Learned


@dataclass(frozen=True)
class _Part:
    """The outputs of some examples.

    Attributes:
        predictions: Predictions ordered by example, sample and side.
        outputs: The first sample of every side, one entry per example.
        decisions: The recommendations of each variant.
    """

    examples: Sequence[Example]
    predictions: Sequence[Prediction]
    outputs: Sequence[Outputs]
    decisions: Mapping[Mode, Sequence[Recommendation]]


@dataclass
class _SideTally:
    """Length and perplexity of one side's outputs, 8 bytes an output."""

    num_outputs: int = 0
    num_tokens: int = 0
    perplexities: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, output: SideOutput) -> None:
        self.num_outputs += 1
        self.num_tokens += output.num_tokens
        if output.perplexity is not None:
            self.perplexities.append(output.perplexity)

    def result(self) -> SideMetrics:
        return SideMetrics(
            num_outputs=self.num_outputs,
            mean_tokens=self.num_tokens / self.num_outputs,
            median_perplexity=median(self.perplexities) if self.perplexities else None,
        )


class ModelTally:
    """The figures that only a model has, to which its outputs are added in partitions."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._sides: dict[Side, _SideTally] = defaultdict(_SideTally)
        self._counts = Counter[str]()
        self._refused: list[Refused] = []
        self._cases = CasePicker(reading.dataset)
        self._fusion = FusionTally()
        self._study = StudyTally(reading.learned.gate, reading.learned.chosen)
        variants = set(reading.variants)
        self._calibration = {variant: CalibrationTally() for variant in reading.variants}
        self._is_fused = "fused" in variants
        has_route = "direct" in variants and bool({"fused", "routed"} & variants)
        self._route = RouteTally() if has_route else None

    def read(self, answered: Iterator[Answered]) -> Iterator[EvaluatedPart]:
        """What the variants chose, partition by partition, each of which is counted."""
        for examples, predictions in answered:
            outputs = _by_example([p for p in predictions if p.sample == 0])
            decisions = {
                variant: [
                    Recommender.decide(variant, both, self._reading.threshold) for both in outputs
                ]
                for variant in self._reading.variants
            }
            part = _Part(examples, predictions, outputs, decisions)
            refused = _refused(predictions)
            self._add(part, refused)
            yield EvaluatedPart(
                examples,
                {variant: _chosen(variant, part) for variant in decisions},
                refused,
                [p for p in predictions if p.sample],
                self._lenient(part),
            )

    def _add(self, part: _Part, refused: Sequence[Refused]) -> None:
        self._counts["users"] += len(part.examples)
        self._counts["refused"] += len(refused)
        self._counts["deadly"] += sum(row.error.startswith(DEADLY) for row in refused)
        self._refused += refused[: max(0, _MAX_ERRORS - len(self._refused))]
        for prediction in part.predictions:
            self._counts["samples"] += 1
            self._counts["resumed"] += prediction.is_resumed
            if not prediction.is_resumed:
                self._counts["tokens"] += prediction.output.num_tokens
        for both in part.outputs:
            for side, output in both.items():
                self._sides[side].add(output)
        for decision in part.decisions.get("routed", ()):
            self._counts["routed_tokens"] += sum(side.num_tokens for side in decision.sides)
        self._cases.add(part.examples, part.outputs, part.decisions)
        if self._is_fused:
            self._fusion.add(part.examples, part.outputs, part.decisions["fused"])
            self._study.add(part.examples, _with_samples(part))
        for variant, decisions in part.decisions.items():
            self._calibration[variant].add(part.examples, decisions)
        if self._route:
            self._route.add(part.examples, part.outputs)

    def _lenient(self, part: _Part) -> dict[str, list[int | None]]:
        """What each variant chooses where its sides are read leniently."""
        dataset, max_chars = self._reading.dataset, self._reading.form.max_title_chars
        lists = [show_titles(dataset.titles(e.candidates), max_chars) for e in part.examples]
        outputs: list[Outputs] = [
            {
                side: replace(output, index=read_lenient(output.text, shown))
                for side, output in both.items()
            }
            for shown, both in zip(lists, part.outputs, strict=True)
        ]
        threshold = self._reading.threshold
        return {
            variant: [Recommender.decide(variant, both, threshold).index for both in outputs]
            for variant in part.decisions
        }

    def details(self, model: ModelFacts, seconds: float) -> Details:
        """The figures of all outputs that were read.

        Args:
            model: Facts about the model.
            seconds: Duration of generation, engine start included.
        """
        counts = self._counts
        if counts["refused"]:
            logger.warning(
                "%d of %d samples were refused and count as misses, see %s; the first: %s",
                counts["refused"],
                counts["samples"],
                DEAD_LETTERS,
                self._refused[0].error,
            )
        return Details(
            model=model,
            errors=Errors(
                num_refused=counts["refused"],
                num_deadly=counts["deadly"],
                first=tuple(self._refused),
            ),
            speed=Speed(
                num_resumed=counts["resumed"],
                wall_s=round(seconds, 2),
                num_tokens=counts["tokens"],
                tokens_per_s=round(counts["tokens"] / seconds, 1) if seconds else 0.0,
            ),
            sides={side: tally.result() for side, tally in self._sides.items()},
            generated_tokens={v: self._mean_tokens(v) for v in self._reading.variants},
            cases=tuple(self._cases.cases),
            fusion=self._fusion_result() if self._is_fused else None,
            routing=self._routing(),
            calibration=self._calibrated(),
        )

    def _mean_tokens(self, variant: Mode) -> float:
        """Tokens that a variant generates per user; of a route, only what it takes."""
        num_users = self._counts["users"]
        if variant == "routed":
            return self._counts["routed_tokens"] / num_users
        return sum(self._sides[side].num_tokens / num_users for side in sides_of(variant))

    def _fusion_result(self) -> FusionResult:
        gate = self._reading.learned.gate
        return self._fusion.result().model_copy(
            update={"study": self._study.result(), "gate": gate}
        )

    def _calibrated(self) -> dict[str, CalibrationResult]:
        """Of each variant with likelihoods, by the temperature that validation taught."""
        reading = self._reading
        found = {
            variant: tally.result(
                reading.learned.temperatures.get(variant),
                is_validation=reading.split == "validation",
            )
            for variant, tally in self._calibration.items()
        }
        return {variant: result for variant, result in found.items() if result is not None}

    def _routing(self) -> RoutingResult | None:
        """The route by a known threshold, or on validation by the one that these users choose."""
        if self._route is None:
            return None
        if self._reading.threshold is not None:
            return self._route.measure(self._reading.threshold)
        if self._reading.split != "validation":
            return None
        return self._route.measure(self._route.choose_threshold(), is_chosen_here=True)


def _by_example(predictions: Sequence[Prediction]) -> list[Outputs]:
    """The sides of each example, from predictions ordered by example."""
    found: dict[str, Outputs] = defaultdict(dict)
    for prediction in predictions:
        output = prediction.output
        found[prediction.example_id][output.side] = output  # type: ignore[index]
    return list(found.values())


def _chosen(variant: Mode, part: _Part) -> list[Prediction]:
    """One prediction per user: the chosen side's, or an invalid one."""
    seeds = {(p.example_id, p.output.side): p.seed for p in part.predictions if p.sample == 0}
    chosen = []
    for example, both, decision in zip(
        part.examples, part.outputs, part.decisions[variant], strict=True
    ):
        own = next((output for side, output in both.items() if side == variant), _NOBODY)
        output = decision.chosen or own
        seed = seeds.get((example.example_id, output.side), 0)
        chosen.append(Prediction(example.example_id, output, seed))
    return chosen


def _with_samples(part: _Part) -> list[Sides]:
    """The sides of each example, and further samples under their own names, which can vote."""
    voters: dict[str, dict[str, SideOutput]] = defaultdict(dict)
    for p in part.predictions:
        name = f"{p.output.side}#{p.sample}" if p.sample else p.output.side
        voters[p.example_id][name] = p.output
    return [voters[example.example_id] for example in part.examples]


def _refused(predictions: Sequence[Prediction]) -> list[Refused]:
    """The samples that were refused, and why."""
    return [
        Refused(example_id=p.example_id, side=p.output.side, error=p.error)
        for p in predictions
        if p.error is not None
    ]
