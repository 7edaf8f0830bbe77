"""What a study will run, what is there already, how long the rest takes, and what it can find."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from msrrec.comparison.compare import system_folder
from msrrec.comparison.registry import System, find_systems
from msrrec.config import RunConfig
from msrrec.data.leave_one_out import MIN_EVENTS
from msrrec.embedded.world import MAX_EVENTS as MOST_EVENTS
from msrrec.embedded.world import MIN_EVENTS as FEWEST_EVENTS
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.study import plan_power
from msrrec.evaluation.study_results import Power
from msrrec.pipeline.points import (
    Place,
    Point,
    find_places,
    find_system,
    is_ready,
    iter_points,
    load_dataset,
    share_place,
)
from msrrec.pipeline.study_costs import evaluation_seconds, mean_known, read_training
from msrrec.stage import Summary, is_finished

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Count:
    """How much of something there is to do, and how much is done."""

    total: int
    finished: int

    @property
    def left(self) -> int:
        """What is still to do."""
        return self.total - self.finished

    def __str__(self) -> str:
        return f"{self.total} ({self.finished} there)"


@dataclass(frozen=True)
class Plan:
    """The plan of a study.

    Attributes:
        datasets: Datasets with their reasoning.
        trainings: Models; with several learning rates each is tried with the first seed.
        more_trainings: Models to come on top, at most: with further seeds ``direct`` is the model
            of ``chain`` unless another learning rate turns out best for it.
        validations: Evaluations on validation that choose a rate.
        evaluations: Evaluations of arms.
        references: Evaluations of systems beside the arms.
        train_s: Seconds of one training, mean over the finished ones, or assumed.
        evaluate_s: Seconds of one evaluation, likewise.
        is_measured: Whether both are measured.
        power: What can be found; None where the arms allow no verdict.
    """

    datasets: Count
    trainings: Count
    more_trainings: int
    validations: Count
    evaluations: Count
    references: Count
    train_s: float
    evaluate_s: float
    is_measured: bool
    power: Power | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        counts = (self.datasets, self.evaluations, self.references)
        return not any(count.left for count in counts)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds of the rest, without datasets and references."""
        num_evaluations = self.validations.left + self.evaluations.left
        return self.trainings.left * self.train_s + num_evaluations * self.evaluate_s

    def sentence(self) -> str:
        """The plan in words."""
        how = "measured" if self.is_measured else "assumed, see study.train_tokens_per_s"
        more = (
            f" and up to {self.more_trainings} more, where direct is best at another learning rate "
            "than chain"
        )
        return (
            f"datasets {self.datasets}, trainings {self.trainings}"
            f"{more if self.more_trainings else ''}, evaluations on validation "
            f"{self.validations}, evaluations {self.evaluations}, references {self.references}; "
            f"about {self.seconds_left / 60:,.0f} minutes left for trainings and evaluations of "
            f"arms, at {self.train_s:.0f} s a training and {self.evaluate_s:.0f} s an evaluation "
            f"({how})"
        )

    def can_find(self) -> str:
        """What the study can find, in words."""
        if self.power:
            return self.power.sentence()
        return "nothing is decided, as no primary contrast has both arms; add none and chain"

    def summary(self) -> Summary:
        """The figures that ``--dry-run`` prints."""
        names = ("datasets", "trainings", "validations", "evaluations", "references")
        counts = {name: vars(getattr(self, name)) for name in names}
        return {
            **counts,
            "more_trainings": self.more_trainings,
            "train_s": round(self.train_s, 1),
            "evaluate_s": round(self.evaluate_s, 1),
            "is_measured": self.is_measured,
            "seconds_left": round(self.seconds_left),
            "power": {
                **(self.power.model_dump(mode="json") if self.power else {}),
                "sentence": self.can_find(),
            },
        }


@dataclass(frozen=True)
class Known:
    """The systems of a study whose datasets are there and whose learning rates are known."""

    places: Sequence[Place]
    config: RunConfig

    @cached_property
    def points(self) -> dict[Point, System]:
        """The systems of points."""
        shared = {place.name: share_place(place, {}) for place in self.places if is_ready(place)}
        found = {
            point: find_system(point, shared[point.place.name], self.config)
            for point in iter_points(self.places, self.config)
            if point.place.name in shared
        }
        return {point: system for point, system in found.items() if system is not None}

    @cached_property
    def evaluations(self) -> dict[Point, str]:
        """Folders of finished evaluations."""
        folders = {p: system_folder(p.place.out, system) for p, system in self.points.items()}
        return {point: folder for point, folder in folders.items() if is_finished(folder)}

    @cached_property
    def models(self) -> list[str]:
        """Folders of the models."""
        return sorted({folder for system in self.points.values() for folder in system.models})

    @cached_property
    def finished_models(self) -> list[str]:
        """Folders of finished models."""
        return [folder for folder in self.models if is_finished(folder)]

    def trainings(self) -> Count:
        """All models; of those not known yet, one for ``chain`` and ``direct`` together."""
        rates = len(self.config.baselines.arm_learning_rates) or 1
        first = self.config.study.seeds[0]
        every = iter_points(self.places, self.config)
        unknown = {_training(p) for p in every} - {_training(p) for p in self.points}
        planned = sum(rates if point.seed == first else 1 for point in unknown)
        return Count(len(self.models) + planned, len(self.finished_models))

    def more_trainings(self) -> int:
        """Models that ``direct`` needs for itself if another learning rate is best for it."""
        wanted = self.config.study
        if len(self.config.baselines.arm_learning_rates) < 2 or "chain" not in wanted.arms:
            return 0
        return sum(
            point.arm == "direct"
            and point.seed != wanted.seeds[0]
            and not {point, replace(point, arm="chain")} <= self.points.keys()
            for point in iter_points(self.places, self.config)
        )

    def references(self) -> Iterator[str]:
        """Folders of finished systems beside the arms."""
        names = self.config.study.references
        for place in self.places if names else ():
            if is_ready(place):
                for system in find_systems(names, share_place(place, {})):
                    folder = system_folder(place.out, system)
                    if is_finished(folder):
                        yield folder


def _training(point: Point) -> Point:
    """The point whose model a point has, as far as learning rates agree."""
    return replace(point, arm="chain") if point.arm == "direct" else point


def make_plan(places: Sequence[Place], config: RunConfig) -> Plan:
    """The plan of a study; nothing is run."""
    wanted, known = config.study, Known(places, config)
    num_cells = len(places) * len(wanted.orders)
    num_rates = len(config.baselines.arm_learning_rates) or 1
    pilots = sum(point.seed == wanted.seeds[0] for point in known.evaluations)
    is_chosen = num_rates > 1
    train_s, evaluate_s = measure_trainings(known), measure_evaluations(known)
    return Plan(
        datasets=Count(len(places), sum(map(is_ready, places))),
        trainings=known.trainings(),
        more_trainings=known.more_trainings(),
        validations=Count(
            is_chosen * num_cells * len(wanted.arms) * num_rates, is_chosen * pilots * num_rates
        ),
        evaluations=Count(num_cells * len(wanted.arms) * len(wanted.seeds), len(known.evaluations)),
        references=Count(len(places) * len(wanted.references), len(list(known.references()))),
        train_s=assume_training(places, config) if train_s is None else train_s,
        evaluate_s=assume_evaluation(places, config) if evaluate_s is None else evaluate_s,
        is_measured=train_s is not None and evaluate_s is not None,
        power=plan_power(count_users(places, config), wanted),
    )


def plan_study(datasets: Sequence[str], out: str, config: RunConfig) -> Summary:
    """The figures of a study's plan, which are also logged in words.

    Raises:
        ConfigError: If two datasets have the same name.
        DataError: If a dataset is not there.
    """
    plan = make_plan(find_places(datasets, out, config), config)
    tell_plan(plan)
    return plan.summary()


def tell_plan(plan: Plan) -> None:
    """Log a plan in words."""
    for sentence in (plan.sentence(), plan.can_find()):
        logger.info("study: %s", sentence)


def count_users(places: Sequence[Place], config: RunConfig) -> int:
    """The least number of users that are evaluated on any dataset, as far as it is known."""
    found = [
        dataset.partitions(config.evaluate.split).num_examples
        for dataset in map(load_dataset, places)
        if dataset
    ]
    if len(found) < len(places):
        found.append(config.data.num_users or config.data.demo_users)
        found.append(config.data.demo_users)
    return min(*found, config.evaluate.num_users or min(found))


def measure_trainings(known: Known) -> float | None:
    """Mean seconds of finished trainings; None where none is known."""
    facts = map(read_training, known.finished_models)
    return mean_known(found.seconds for found in facts if found)


def measure_evaluations(known: Known) -> float | None:
    """Mean seconds of finished evaluations; None where none is known."""
    results = map(EvaluationResult.load, known.evaluations.values())
    return mean_known(map(evaluation_seconds, results))


def assume_training(places: Sequence[Place], config: RunConfig) -> float:
    """Seconds of one training at the assumed speed, mean over the datasets."""
    num_examples = sum(count_examples(place) for place in places) / len(places)
    tokens = num_examples * len(config.train.sides) * config.train.num_epochs
    speed = config.study.train_tokens_per_s / config.study.example_tokens
    return config.study.start_s + tokens / speed


def count_examples(place: Place) -> int:
    """Purchases to learn from on a dataset; about how many in a world that is still to be made."""
    if dataset := load_dataset(place):
        return dataset.partitions("train").num_examples
    data = place.config.data
    most = (FEWEST_EVENTS + MOST_EVENTS) // 2 - MIN_EVENTS
    return (data.num_users or data.demo_users) * min(data.train_examples_per_user or most, most)


def assume_evaluation(places: Sequence[Place], config: RunConfig) -> float:
    """Seconds of one evaluation at the assumed speed."""
    num_outputs = count_users(places, config) * (2 if config.study.reading == "fused" else 1)
    seconds = num_outputs * config.study.output_tokens / config.study.generate_tokens_per_s
    return config.study.start_s + seconds
