"""Reasoning-enhanced fine-tuning on Ray Train, from a dataset to a model's folder.

A run is named after its data and settings. The same command resumes it; other data or settings
start a new one.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice

import ray
import ray.train
from ray.train.torch import TorchTrainer

from msrrec import storage
from msrrec.cluster import WORKER_ENVIRONMENT, ray_storage
from msrrec.config import RunConfig, TrainConfig
from msrrec.data.dataset import Dataset
from msrrec.data.typical import typical_customers
from msrrec.engines.placement import trains_on_gpu, wait_for_workers
from msrrec.errors import ConfigError, MsrRecError
from msrrec.fingerprint import hash_weights
from msrrec.models import ModelSettings, ModelSource, SupervisedTokens, locate_base
from msrrec.nodes import check_readable, check_shared
from msrrec.processor import warn_if_imitated
from msrrec.reasoning.template import TEMPLATE_DATE
from msrrec.stage import Summary
from msrrec.training.checkpoint import (
    VALIDATION_LOSS,
    MetricsRow,
    best_step,
    find_checkpoints,
    is_stalled,
    read_metrics,
    steps_of,
)
from msrrec.training.examples import ExampleSet, build_examples, build_validation, load_paths
from msrrec.training.export import CHECKPOINTS, begin_folder, export_model
from msrrec.training.model import check_4bit, load_tokenizer
from msrrec.training.schedule import iter_batches, num_steps
from msrrec.training.worker import TrainingJob, run_worker

logger = logging.getLogger(__name__)

_NO_EFFECT = {*TrainConfig.runtime, "export_merged", "keep"}
"""Settings that do not change the result, so a run may be resumed with other values of them."""


def train(dataset: Dataset, reasoning_dir: str | None, out: str, config: RunConfig) -> Summary:
    """Fine-tune the base model on a dataset's training examples and export it.

    Args:
        dataset: Dataset made by ``msrrec prepare``.
        reasoning_dir: Folder made by ``msrrec synthesize``; None only with
            ``train.arm=none``.
        out: The model's folder, a URI or a local one that all nodes see. Checkpoints live in it.
        config: Sections ``model``, ``prompt`` and ``train``.

    Returns:
        Counts, final losses and speed.

    Raises:
        ConfigError: If the cluster lacks what the settings need.
        DataError: If an example can't fit, or the reasoning belongs to another dataset.
        ModelError: If the base model can't be loaded, or training diverges.
    """
    check_4bit(config.train)
    source = locate_base(config.model, config.prompt)
    on_gpu = trains_on_gpu(config.train, source)
    examples = prepare_examples(dataset, reasoning_dir, source, config)
    validation = None
    if config.train.validate_every_steps:
        validation = build_validation(dataset, load_tokenizer(source), config.train, source.form)
    folder = begin_folder(out)
    check_shared(folder)
    check_readable(source.path)
    job = TrainingJob(source, config.model.dtype, config.train)
    last, resumed = fit(job, examples, validation, folder, on_gpu=on_gpu)
    rows = read_metrics(last)
    kept = best_step(rows) if config.train.keep == "best" else steps_of(last)
    batches = (batch for _, batch in islice(iter_batches(len(examples.units), config.train), kept))
    supervised = examples.count_supervised(batches)
    export_model(
        folder,
        next(
            checkpoint
            for checkpoint in find_checkpoints(storage.parent(last))
            if steps_of(checkpoint) == kept
        ),
        rows,
        source,
        config.model.dtype,
        describe_model(dataset, config, supervised),
        merged=config.train.export_merged,
        on_gpu=on_gpu,
    )
    steps = steps_of(last), resumed
    return asdict(summarize(out, examples, rows, steps, kept, supervised))


def prepare_examples(
    dataset: Dataset, reasoning_dir: str | None, source: ModelSource, config: RunConfig
) -> ExampleSet:
    """The tokenised training examples."""
    paths = None
    if reasoning_dir is not None:
        paths = load_paths(reasoning_dir, dataset.iter_examples("train"))
    elif config.train.arm != "none":
        raise ConfigError(
            f"train.arm is {config.train.arm} but there is no --reasoning; name the folder that "
            "`msrrec synthesize` wrote, or set train.arm=none"
        )
    examples = build_examples(dataset, paths, load_tokenizer(source), config.train, source.form)
    logger.info(
        "train: %d examples, %d of them with reasoning, %d shortened; %d tokens, the longest %d",
        len(examples),
        examples.num_reasoning,
        examples.num_shortened,
        examples.lengths.sum(),
        examples.lengths.max(),
    )
    return examples


def fit(
    job: TrainingJob,
    examples: ExampleSet,
    validation: ExampleSet | None,
    folder: str,
    *,
    on_gpu: bool,
) -> tuple[str, int]:
    """Train on Ray if any step is left.

    Returns:
        The last checkpoint, and the number of steps that earlier, killed runs had done.

    Raises:
        MsrRecError: Bad input that a worker found.
    """
    run = storage.join(folder, CHECKPOINTS, run_name(job, examples, validation))
    storage.make_folder(run)
    checkpoints = find_checkpoints(run)
    if not checkpoints or not is_finished(checkpoints[-1], len(examples.units), job.config):
        run_workers(job, (examples, validation), run, on_gpu=on_gpu)
    return find_checkpoints(run)[-1], steps_of(checkpoints[-1]) if checkpoints else 0


def is_finished(checkpoint: str, num_units: int, config: TrainConfig) -> bool:
    """Whether training is complete with this checkpoint."""
    if steps_of(checkpoint) == num_steps(num_units, config):
        return True
    return is_stalled(read_metrics(checkpoint), config.patience)


def run_workers(
    job: TrainingJob, examples: tuple[ExampleSet, ExampleSet | None], run: str, *, on_gpu: bool
) -> None:
    """Run the remaining steps on Ray Train's workers, and restart when workers are lost.

    Checkpoints are kept by this project and not by Ray Train, whose list of them is not written
    atomically and misses one reported just before a kill. Idle threads sleep, as spinning threads
    make a step seven times slower when other programs need the cores.

    Args:
        job: What every worker is given.
        examples: Training examples, and validation examples or None.
        run: The run's folder.
        on_gpu: Whether workers get GPUs.
    """
    config = job.config
    wait_for_workers(config, on_gpu=on_gpu)
    if not on_gpu:
        warn_if_imitated(job.dtype, "model.dtype")
    workers: int | tuple[int, int] = config.num_workers
    if config.min_workers is not None:
        workers = (config.min_workers, config.num_workers)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={
            "data": ray.put((job, *examples)),
            "run": run,
            "folder": storage.parent(storage.parent(run)),
        },
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
        run_config=ray.train.RunConfig(
            name=storage.base_name(run),
            **ray_storage(storage.parent(run)),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise_for_user(getattr(error, "worker_failures", {}).values())
        raise
    if result.return_value is not None:
        raise result.return_value


def raise_for_user(failures: Iterable[BaseException]) -> None:
    """Raise the first error that is meant for the user, without Ray's wrapping."""
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, MsrRecError):
            raise cause


def run_name(job: TrainingJob, examples: ExampleSet, validation: ExampleSet | None) -> str:
    """A name that differs whenever data, base model or a decisive setting differs."""
    settings = job.config.model_dump(mode="json", exclude=_NO_EFFECT)
    weights = hash_weights(job.source) or job.source.path
    data = [part and part.fingerprint for part in (examples, validation)]
    source = [weights, job.source.revision, job.dtype]
    parts = [settings, *source, data, *job.identity()]
    return f"run-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def describe_model(
    dataset: Dataset, config: RunConfig, supervised: SupervisedTokens
) -> ModelSettings:
    """The contents of ``config.json`` of the trained model."""
    return {
        "base_model": config.model.name_or_path,
        "revision": config.model.revision,
        "domain": dataset.domain,
        "dataset_fingerprint": dataset.fingerprint,
        "supervised_tokens": asdict(supervised),
        "template_date": TEMPLATE_DATE,
        "seed": config.train.seed,
        "model": config.model.model_dump(mode="json"),
        "prompt": config.prompt.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "examples": typical_customers(dataset),
    }


@dataclass(frozen=True)
class TrainingSummary:
    """The counts of a finished run and its last metrics.

    Attributes:
        model: The model's folder.
        num_shortened: Examples whose oldest history was left out.
        loss: Mean over the steps of the last lines of metrics; likewise for its two parts.
        validation_loss: The lowest of the run; None without validation.
        steps_resumed: Those among the steps that earlier, killed runs had done; the seconds of
            the run record are without them.
        kept_step: Step of the exported checkpoint.
        supervised_tokens: Those that the run was trained to write up to that step.
    """

    model: str
    num_examples: int
    num_reasoning: int
    num_behaviour_only: int
    num_shortened: int
    num_tokens: int
    loss: float | None
    loss_rea: float | None
    loss_rec: float | None
    validation_loss: float | None
    tokens_per_s: float
    steps: int
    steps_resumed: int
    kept_step: int | None
    supervised_tokens: SupervisedTokens


def summarize(
    out: str,
    examples: ExampleSet,
    rows: list[MetricsRow],
    steps: tuple[int, int],
    kept_step: int | None,
    supervised: SupervisedTokens,
) -> TrainingSummary:
    """The summary of a run from its examples, metrics, and steps, all and those before it."""
    last = rows[-1]
    losses = [row[VALIDATION_LOSS] for row in rows if VALIDATION_LOSS in row]
    return TrainingSummary(
        model=out,
        num_examples=len(examples),
        num_reasoning=examples.num_reasoning,
        num_behaviour_only=len(examples) - examples.num_reasoning,
        num_shortened=examples.num_shortened,
        num_tokens=int(examples.lengths.sum()),
        loss=last["loss"],
        loss_rea=last["loss_rea"],
        loss_rec=last["loss_rec"],
        validation_loss=min(losses, default=None),
        tokens_per_s=last["tokens_per_s"],
        steps=steps[0],
        steps_resumed=steps[1],
        kept_step=kept_step,
        supervised_tokens=supervised,
    )
