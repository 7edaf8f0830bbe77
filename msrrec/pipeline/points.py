"""The datasets and points of a study, and the system that stands for each point."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from msrrec import storage
from msrrec.comparison.compare import system_folder
from msrrec.comparison.registry import Run, System, best_trial, study_arm
from msrrec.config import Order, RunConfig, StudyArm
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.results import EvaluationResult
from msrrec.stage import Call, is_finished
from msrrec.storage import MANIFEST


@dataclass(frozen=True)
class Place:
    """One dataset of a study, and the folder of everything made for it.

    Attributes:
        name: Name in the verdict: the world's, or that of the dataset's folder.
        out: Folder of reasoning, models and evaluations.
        dataset: Folder of the dataset.
        config: Settings of the dataset and its reasoning.
        is_world: Whether the dataset is generated here.
    """

    name: str
    out: str
    dataset: str
    config: RunConfig = field(hash=False)
    is_world: bool

    @property
    def reasoning(self) -> str:
        """Folder of the reasoning paths, which all arms and orders share."""
        return storage.join(self.out, "reasoning")

    @property
    def preparing(self) -> Call:
        """The call that makes a world's dataset."""
        return Call(self.dataset, self.config, {}, {"source": "demo"})

    @property
    def synthesizing(self) -> Call:
        """The call that makes the reasoning paths."""
        return Call(self.reasoning, self.config, {"dataset": self.dataset})


@dataclass(frozen=True)
class Point:
    """One arm in one order with one seed on one dataset: a training and an evaluation."""

    place: Place
    order: Order
    arm: StudyArm
    seed: int

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.place.name}/{self.order}/{self.arm}/seed {self.seed}"


def find_places(datasets: Sequence[str], out: str, config: RunConfig) -> list[Place]:
    """The datasets of a study: prepared folders, or else the generated worlds.

    Raises:
        ConfigError: If two folders have the same name.
    """
    if not datasets:
        return [_find_world(world, out, config) for world in config.study.worlds]
    paths = {storage.base_name(path): storage.absolute(path) for path in datasets}
    if len(paths) < len(datasets):
        raise ConfigError(
            f"--dataset: found {len(datasets)} folders with {len(paths)} names; expected folders "
            "whose last names differ, as results are named after them"
        )
    return [
        Place(name, storage.join(out, name), path, config, is_world=False)
        for name, path in paths.items()
    ]


def _find_world(world: str, out: str, config: RunConfig) -> Place:
    data = config.data.model_copy(update={"demo_world": world})
    folder = storage.join(out, world)
    made = config.model_copy(update={"data": data})
    return Place(world, folder, storage.join(folder, "dataset"), made, is_world=True)


def iter_points(places: Sequence[Place], config: RunConfig) -> Iterator[Point]:
    """All points, one seed after the other, so that what is there is always balanced."""
    wanted = config.study
    for seed, place, order, arm in product(wanted.seeds, places, wanted.orders, wanted.arms):
        yield Point(place, order, arm, seed)


def share_place(place: Place, keys: Mapping[str, str], overwrite: bool = False) -> Run:
    """What the evaluations on a dataset share."""
    dataset = Dataset.load(place.dataset)
    return Run(dataset, place.out, place.config, place.reasoning, keys, overwrite)


def load_dataset(place: Place) -> Dataset | None:
    """The dataset of a place; None for a world that is still to be made.

    Raises:
        DataError: If the folder of any other is not a dataset.
    """
    if place.is_world and not storage.exists(storage.join(place.dataset, MANIFEST)):
        return None
    return Dataset.load(place.dataset)


def is_ready(place: Place) -> bool:
    """Whether a dataset and its reasoning are there."""
    return load_dataset(place) is not None and is_finished(place.reasoning)


def find_system(point: Point, run: Run, config: RunConfig) -> System | None:
    """The system of a point; None if its learning rate is not known yet."""
    first = replace(point, seed=config.study.seeds[0])
    config = seeded(config, first)
    pilot = study_arm(point.arm, replace(run, config=config), config.study.reading)
    if point == first:
        return pilot
    if len(config.baselines.arm_learning_rates) > 1:  # one rate is not chosen, so not waited for
        folder = system_folder(run.out, pilot)
        if not is_finished(folder):
            return None
        trials = EvaluationResult.load(folder).rate_trials
        config = _with_rate(config, best_trial(trials).learning_rate)
    config = seeded(config, point)
    return study_arm(point.arm, replace(run, config=config), config.study.reading)


def _with_rate(config: RunConfig, rate: float) -> RunConfig:
    """Settings with one learning rate, already chosen."""
    return config.model_copy(
        update={
            "baselines": config.baselines.model_copy(update={"arm_learning_rates": ()}),
            "train": config.train.model_copy(update={"learning_rate": rate}),
        }
    )


def seeded(config: RunConfig, point: Point) -> RunConfig:
    """Settings of a point's training and evaluation: its order, and its seed for both."""
    updates = {
        "prompt": {"order": point.order},
        "train": {"seed": point.seed},
        "inference": {"seed": point.seed},
    }
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=update)
            for name, update in updates.items()
        }
    )
