"""The training loop of every Ray Train worker: steps, metrics and checkpoints."""

import itertools
import logging
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch

from msrrec import log, storage
from msrrec.cluster import cores_here
from msrrec.config import TrainConfig
from msrrec.errors import DataError, MsrRecError
from msrrec.models import ModelSource
from msrrec.training.checkpoint import (
    VALIDATION_LOSS,
    MetricsRow,
    find_checkpoints,
    is_stalled,
    keep_checkpoint,
    load_checkpoint,
    remove_incomplete,
)
from msrrec.training.examples import ExampleSet
from msrrec.training.learner import Learner, StepResult
from msrrec.training.live import Live
from msrrec.training.model import Dtype, add_lora, load_base, multiplies_in_bfloat16
from msrrec.training.schedule import iter_batches, learning_rate, num_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """What every training worker is given; other systems override its methods."""

    source: ModelSource
    dtype: Dtype
    config: TrainConfig

    def load_base(self, *, on_gpu: bool) -> Any:
        """The frozen model, on the CPU unless it is in 4 bits; see ``model.load_base``."""
        in_4bit = self.config.load_in_4bit
        return load_base(self.source, self.dtype, on_gpu=on_gpu, in_4bit=in_4bit)

    def add_lora(self, base: Any) -> Any:
        """The PEFT model around the base model."""
        return add_lora(base, self.config)

    def identity(self) -> list[Any]:
        """What decides the result besides config, source and examples; JSON values only."""
        return []

    def make_learner(self, model: Any, **place: Any) -> Learner:
        """The learner that trains the PEFT model; ``place`` is as for ``Learner``."""
        return Learner(model, self.config, **place)


class WorkerSettings(TypedDict):
    """The settings that Ray Train hands to every worker.

    Attributes:
        data: A reference to the job, the training examples, and the validation examples or None.
            Ray Train's controller reads these settings too, before any worker starts; a reference
            spares it the seconds of importing what the job is made of.
        run: The folder of the checkpoints.
        folder: The model's folder.
    """

    data: "ray.ObjectRef[tuple[TrainingJob, ExampleSet, ExampleSet | None]]"
    run: str
    folder: str


@dataclass
class Meter:
    """Means over the steps between two lines of ``metrics.jsonl``."""

    results: list[StepResult] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, result: StepResult, seconds: float) -> None:
        """Add a step and the time that it took."""
        self.results.append(result)
        self.seconds += seconds

    def read(self, place: MetricsRow) -> MetricsRow:
        """One line of metrics; then start again. ``place`` holds step, epoch and the like."""
        row: MetricsRow = {
            **place,
            "loss": _mean([r.loss for r in self.results]),
            "loss_rea": _mean([r.loss_rea for r in self.results if r.loss_rea is not None]),
            "loss_rec": _mean([r.loss_rec for r in self.results]),
            "tokens_per_s": round(sum(r.num_tokens for r in self.results) / self.seconds, 1),
            "examples_per_s": round(sum(r.num_examples for r in self.results) / self.seconds, 2),
            "memory_bytes": memory_bytes(),
        }
        self.results, self.seconds = [], 0.0
        return row


def run_worker(settings: WorkerSettings) -> MsrRecError | None:
    """Ray Train's ``train_loop_per_worker``: from the last checkpoint to the last step.

    Returns:
        An error that a restart could not avoid, such as a diverging loss; None without one. All
        workers meet it at the same step. It is returned because Ray Train would restart the workers
        after an exception.
    """
    job, examples, validation = ray.get(settings["data"])
    learner = build_learner(job)
    log.setup(logging.INFO if learner.rank == 0 else logging.WARNING)
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs each start of each worker there
    run = settings["run"]
    done, rows = restore(learner, run)
    live = None
    if learner.rank == 0:
        live = Live(settings["folder"], rows, tensorboard=job.config.tensorboard)
    try:
        for number, keeps in run_steps(learner, examples, validation, done, rows):
            if live:
                live.update(rows)
                if keeps:
                    keep_checkpoint(run, learner, number, rows)
    except MsrRecError as error:
        return error
    finally:
        if live:
            live.close()
    return None


def run_steps(
    learner: Learner,
    examples: ExampleSet,
    validation: ExampleSet | None,
    done: int,
    rows: list[MetricsRow],
) -> Iterator[tuple[int, bool]]:
    """Do every remaining step, until validation stalls.

    Args:
        learner: The learner in its state after the steps already done.
        examples: Training examples.
        validation: Validation examples; None for no validation.
        done: Number of steps already done.
        rows: Metrics so far; new rows are appended.

    Yields:
        After each step its 1-based number, and whether a checkpoint is due.
    """
    config, meter = learner.config, Meter()
    total = num_steps(len(examples.units), config)
    batches = itertools.islice(iter_batches(len(examples.units), config), done, None)
    with log.Progress("train", total - done, "steps") as progress:
        for number, (epoch, batch) in enumerate(batches, done + 1):
            rate, begin = learning_rate(number - 1, total, config), time.monotonic()
            result = learner.step(number - 1, examples, batch, rate)
            meter.add(result, time.monotonic() - begin)
            place: MetricsRow = {"step": number, "epoch": epoch, "learning_rate": rate}
            if validation and is_due(number, total, config.validate_every_steps):
                place[VALIDATION_LOSS] = round(learner.mean_loss(validation), 6)
            if VALIDATION_LOSS in place or is_due(number, total, config.log_every_steps):
                rows.append(meter.read(place))
            progress.advance(note=describe(rows))
            keeps = is_due(number, total, config.checkpoint_every_steps)
            yield number, keeps or VALIDATION_LOSS in place
            if is_stalled(rows, config.patience):
                logger.info("train: stops after step %d: validation loss no longer falls", number)
                return


def is_due(number: int, total: int, every: int) -> bool:
    """Whether something done every ``every`` steps, and after the last step, is due now."""
    return number == total or number % every == 0


def build_learner(job: TrainingJob) -> Learner:
    """The model on this worker's device, with its share of the node's CPU cores."""
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    torch.set_num_threads(cores_per_worker(context.get_local_world_size()))
    base = job.load_base(on_gpu=device.type != "cpu")
    return job.make_learner(
        job.add_lora(base),
        bfloat16=multiplies_in_bfloat16(job.dtype, device),
        device=device,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )


def cores_per_worker(num_workers: int) -> int:
    """Threads for each of the workers on this node, at least 1.

    They share the node's cores, or the cores that Ray counts if those are fewer, as in a container.
    """
    return max(1, cores_here() // num_workers)


def restore(learner: Learner, run: str) -> tuple[int, list[MetricsRow]]:
    """The steps done and the metrics of the run's last checkpoint, or zero and none.

    Raises:
        DataError: If this node does not see the run's folder.
    """
    if not (storage.is_object_store(run) or storage.exists(run)):
        raise DataError(
            f"{run}: is not on node {ray.util.get_node_ip_address()}; expected a folder that "
            "all nodes share; choose such an --out"
        )
    if learner.rank == 0:
        remove_incomplete(run)
    found = find_checkpoints(run)
    latest = ray.train.collective.broadcast_from_rank_zero(found[-1] if found else None)
    if latest is None:
        return 0, []
    done, rows = load_checkpoint(latest, learner)
    logger.info("train: resuming after step %d", done)
    return done, rows


def describe(rows: list[MetricsRow]) -> str:
    """The latest metrics, for the progress line."""
    if not rows:
        return ""
    row = rows[-1]
    found = {
        "loss": row.get("loss"),
        "loss_rea": row.get("loss_rea"),
        "loss_rec": row.get("loss_rec"),
        VALIDATION_LOSS: row.get(VALIDATION_LOSS),
    }
    losses = " ".join(f"{name} {x:.3f}" for name, x in found.items() if x is not None)
    memory = f"{row['memory_bytes'] / 2**30:.1f} GiB"
    return f"{losses}, {row['tokens_per_s']:,.0f} tokens/s, {memory}"


def memory_bytes() -> int:
    """Peak memory so far: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
