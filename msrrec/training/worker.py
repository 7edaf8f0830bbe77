"""What runs in every Ray Train worker: the loop over steps, metrics and checkpoints."""

import itertools
import logging
import os
import resource
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from msrrec import log
from msrrec.config import TrainConfig
from msrrec.models import ModelSource
from msrrec.training.checkpoint import Row, load_checkpoint, save_checkpoint
from msrrec.training.examples import ExampleSet
from msrrec.training.learner import Learner, StepResult
from msrrec.training.model import Dtype, add_lora, load_base, multiplies_in_bfloat16
from msrrec.training.schedule import iter_batches, learning_rate, num_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    source: ModelSource
    dtype: Dtype
    config: TrainConfig


@dataclass
class Meter:
    """Averages over the steps between two lines of ``metrics.jsonl``."""

    results: list[StepResult] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def add(self, result: StepResult) -> None:
        """Count a step."""
        self.results.append(result)

    def read(self, **place: Any) -> Row:
        """One line, after which counting begins anew; ``place`` holds step, epoch and the like."""
        seconds = time.monotonic() - self.begin
        row = place | {
            "loss": _mean([r.loss for r in self.results]),
            "loss_rea": _mean([r.loss_rea for r in self.results if r.loss_rea is not None]),
            "loss_rec": _mean([r.loss_rec for r in self.results]),
            "tokens_per_s": round(sum(r.num_tokens for r in self.results) / seconds, 1),
            "examples_per_s": round(sum(r.num_examples for r in self.results) / seconds, 2),
            "memory_bytes": memory_bytes(),
        }
        self.results, self.begin = [], time.monotonic()
        return row


def run_worker(settings: dict[str, Any]) -> None:
    """Ray Train's ``train_loop_per_worker``: from the last checkpoint to the last step."""
    job: Job = settings["job"]
    examples: ExampleSet = ray.get(settings["examples"])
    learner = build_learner(job)
    log.setup(logging.INFO if learner.rank == 0 else logging.WARNING)
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs each report of each worker there
    done, rows = restore(learner)
    total = num_steps(len(examples), job.config)
    batches = itertools.islice(iter_batches(len(examples), job.config), done, None)
    meter = Meter()
    with log.Progress("train", total - done, "steps") as progress:
        for step, (epoch, batch) in enumerate(batches, done):
            rate = learning_rate(step, total, job.config)
            meter.add(learner.step(step, examples, batch, rate))
            is_last = step + 1 == total
            if is_last or (step + 1) % job.config.log_every_steps == 0:
                rows.append(meter.read(step=step + 1, epoch=epoch, learning_rate=rate))
            progress.advance(note=describe(rows))
            if is_last or (step + 1) % job.config.checkpoint_every_steps == 0:
                report(learner, step + 1, rows)


def build_learner(job: Job) -> Learner:
    """The model on this worker's device, with a fair share of the node's cores."""
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    torch.set_num_threads(cores_per_worker(context.get_local_world_size()))
    model = add_lora(load_base(job.source, job.dtype, on_gpu=device.type != "cpu"), job.config)
    return Learner(
        model.to(device),
        job.config,
        bfloat16=multiplies_in_bfloat16(job.dtype, device),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )


def cores_per_worker(num_workers: int) -> int:
    """Threads for each of the workers on this node, at least 1.

    Of the node's cores, or of those that Ray counts where they are fewer, as in a container.
    """
    here = ray.get_runtime_context().get_node_id()
    counted = next(n["Resources"].get("CPU", 1) for n in ray.nodes() if n["NodeID"] == here)
    return max(1, min(int(counted), os.cpu_count() or 1) // num_workers)


def restore(learner: Learner) -> tuple[int, list[Row]]:
    """Steps done and metrics so far: of the run's last checkpoint, or none."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, []
    with checkpoint.as_directory() as folder:
        done, rows = load_checkpoint(folder, learner)
    logger.info("train: goes on after step %d", done)
    return done, rows


def report(learner: Learner, steps_done: int, rows: list[Row]) -> None:
    """Hand a checkpoint to Ray Train; all workers wait here for one another."""
    metrics = {"step": steps_done, **({"loss": rows[-1]["loss"]} if rows else {})}
    if learner.rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, learner, steps_done, rows)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint, checkpoint_dir_name=f"step-{steps_done:08d}")


def describe(rows: list[Row]) -> str:
    """The latest metrics, for the progress line."""
    if not rows:
        return ""
    row = rows[-1]
    reasoning = "" if row["loss_rea"] is None else f" loss_rea {row['loss_rea']:.3f}"
    return (
        f"loss {row['loss']:.3f}{reasoning} loss_rec {row['loss_rec']:.3f}, "
        f"{row['tokens_per_s']:,.0f} tokens/s"
    )


def memory_bytes() -> int:
    """The peak so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
