"""Sequential baselines: trials on Ray Train, the best by validation, and its scores.

Networks of this size do not train faster on several workers, so each worker runs different trials.
A finished trial is saved as a checkpoint, so a killed fit resumes with the next one.
"""

import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer

from msrrec import log
from msrrec.baselines.choosing import draw_settings
from msrrec.baselines.interface import Facts, mean_reciprocal_rank
from msrrec.baselines.purchases import training_purchases
from msrrec.baselines.sequential.loss import LossName
from msrrec.baselines.sequential.rows import IntArray, Purchases
from msrrec.baselines.sequential.trainer import FitSettings, Fitted, Trial, train_trial
from msrrec.cluster import WORKER_ENVIRONMENT, ray_storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.retrieval.sequential.network import Network, encode_histories
from msrrec.schema import Example

logger = logging.getLogger(__name__)

SPACE: dict[str, tuple[float, ...]] = {
    "learning_rate": (3e-4, 1e-3, 3e-3),
    "dropout": (0.1, 0.3, 0.5, 0.7),
    "size": (32, 64, 128),
}
"""What trials after the first draw from, the same for all systems."""


@dataclass(frozen=True)
class TrialJob:
    """What every worker that runs trials is given.

    Attributes:
        name: Name of the system, for the progress line.
        held_out: The validation examples; ``codes`` and ``users`` map their ids to codes.
    """

    name: str
    network: type[Network]
    trials: list[Trial]
    settings: FitSettings
    purchases: Purchases
    held_out: list[Example]
    codes: dict[str, int]
    users: dict[str, int]

    def build(self, trial: Trial) -> Network:
        """The untrained network of a trial; its weights depend only on the seed."""
        torch.manual_seed(self.settings.seed)
        make: Any = self.network
        network: Network = make(len(self.codes), len(self.users), self.settings.length, trial)
        return network

    def run(self, number: int, device: torch.device) -> Fitted:
        """Run one trial, counted from 0."""
        trial = self.trials[number]
        network = self.build(trial).to(device)
        title = f"{self.name}, trial {number + 1} of {len(self.trials)}"
        with log.Progress(title, self.settings.max_epochs, "epochs at most") as progress:

            def tell(note: str) -> None:
                progress.advance(note=note)

            return train_trial(network, self.purchases, trial, self.settings, self.validate, tell)

    def validate(self, network: Network) -> float:
        """MRR among the frozen candidates of validation."""
        found = score_candidates(network, self, self.held_out)
        return mean_reciprocal_rank(self.held_out, found)

    def fingerprint(self) -> str:
        """A hash of everything that decides the result."""
        digest = hashlib.sha256(self.purchases.items.tobytes() + self.purchases.lengths.tobytes())
        parts = [self.name, asdict(self.settings), [asdict(trial) for trial in self.trials]]
        parts += [list(self.codes), list(self.users), [asdict(e) for e in self.held_out]]
        digest.update(json.dumps(parts).encode())
        return digest.hexdigest()[:16]


class Sequential:
    """A baseline made of a network; subclasses define the network and its usual settings."""

    network: ClassVar[type[Network]]
    usual: ClassVar[Trial]

    def __init__(self, config: RunConfig, loss: LossName = "softmax") -> None:
        self._config, self._seed, self._loss = config.baselines, config.inference.seed, loss
        self._job: TrialJob | None = None
        self._fitted: Network | None = None

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Train every trial on Ray, and keep the best on validation.

        Raises:
            DataError: If no user has two training events.
            ModelError: If a loss is not finite.
        """
        job = self._job = self.plan(dataset)
        fitted = run_trials(job, folder, self._config.num_workers)
        best = max(fitted, key=lambda f: f.figure)
        self._fitted = job.build(best.trial)
        self._fitted.load_state_dict(best.state)
        return {
            "sequential": True,
            "events_per_item": len(job.purchases.items) / max(len(job.codes), 1),
            "best": best.facts(),
            "trials": [f.facts() for f in fitted],
        }

    def plan(self, dataset: Dataset) -> TrialJob:
        """The trials for a dataset, with their data and settings.

        Raises:
            DataError: If no user has two training events.
        """
        config = self._config
        bought = training_purchases(dataset)
        codes = {item_id: code for code, item_id in enumerate(dataset.items, 1)}
        purchases = Purchases([[codes[i] for i in items] for items in bought.values()])
        if not purchases.num_targets:
            raise DataError(
                f"{dataset.path}: no user has two training events; expected some, so that there is "
                "an order to learn from"
            )
        settings = FitSettings(
            config.history_length,
            config.batch_size,
            config.max_epochs,
            config.patience,
            self._seed,
            self._loss,
        )
        return TrialJob(
            f"{type(self).__name__}{'' if self._loss == 'softmax' else f', {self._loss} loss'}",
            self.network,
            draw_settings(self.usual, SPACE, config.trials, self._seed),
            settings,
            purchases,
            dataset.examples("validation"),
            codes,
            {user_id: code for code, user_id in enumerate(bought, 1)},
        )

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """The product of the history's state with each candidate's vector."""
        assert self._job is not None, "fit comes first"
        assert self._fitted is not None
        return score_candidates(self._fitted, self._job, examples)

    @property
    def fitted(self) -> Network:
        """The trained network."""
        assert self._fitted is not None, "fit comes first"
        return self._fitted

    def item_vectors(self) -> torch.Tensor:
        """The learned item vectors, (V, D), in the order of the catalogue."""
        return self.fitted.table.detach().cpu()


def score_candidates(
    network: Network, job: TrialJob, examples: Sequence[Example]
) -> list[list[float]]:
    """Scores of the frozen candidates; an unknown user has no vector."""
    histories = [[job.codes[item] for item in e.history] for e in examples]
    users = [job.users.get(e.user_id, 0) for e in examples]
    states_BD = encode_histories(network, histories, users, job.settings.length)
    with torch.inference_mode():
        scores = [
            (network.items.weight[_codes(job, e.candidates)] @ state).tolist()
            for e, state in zip(examples, states_BD, strict=True)
        ]
    return scores


def _codes(job: TrialJob, item_ids: Sequence[str]) -> IntArray:
    return np.array([job.codes[item_id] for item_id in item_ids])


def run_trials(job: TrialJob, folder: str, num_workers: int) -> list[Fitted]:
    """All trials, trained by Ray Train's workers; those already in ``folder`` are skipped.

    Raises:
        MsrRecError: Bad input that a worker found.
    """
    from msrrec.training.loop import raise_for_user  # transformers, seconds to import

    cluster = ray.cluster_resources()
    gpus = int(cluster.get("GPU", 0))
    num_workers = min(num_workers, len(job.trials), gpus or int(cluster.get("CPU", 1)))
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": ray.put(job)},
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=gpus > 0),
        run_config=ray.train.RunConfig(
            name=f"trials-{job.fingerprint()}",
            **ray_storage(folder),
            failure_config=ray.train.FailureConfig(max_failures=2),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise_for_user(getattr(error, "worker_failures", {}).values())
        raise
    found: dict[int, Fitted] = {}
    for checkpoint, _ in result.best_checkpoints:
        found |= read_checkpoint(checkpoint)
    return [found[number] for number in sorted(found)]


def run_worker(settings: Mapping[str, Any]) -> None:
    """Ray Train's ``train_loop_per_worker``: this worker's trials, one checkpoint per round.

    In a round each worker has one trial or, in the last round, possibly none; all report together.
    """
    from msrrec.training.worker import cores_per_worker

    job: TrialJob = ray.get(settings["job"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    log.setup()
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs each report of each worker there
    torch.set_num_threads(cores_per_worker(context.get_local_world_size()))
    for first in range(_trials_done(), len(job.trials), world_size):
        number = first + rank
        with tempfile.TemporaryDirectory() as folder:
            if number < len(job.trials):
                fitted = job.run(number, ray.train.torch.get_device())
                torch.save(vars(fitted), Path(folder) / f"trial-{number:03d}.pt")
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            done = min(first + world_size, len(job.trials))
            name = f"trials-{done:03d}"
            ray.train.report({"trials": done}, checkpoint, checkpoint_dir_name=name)


def _trials_done() -> int:
    """Number of finished trials: the highest number in the last checkpoint, plus 1."""
    checkpoint = ray.train.get_checkpoint()
    return 0 if checkpoint is None else max(read_checkpoint(checkpoint)) + 1


def read_checkpoint(checkpoint: Any) -> dict[int, Fitted]:
    """The trials of one round, by number."""
    with checkpoint.as_directory() as folder:
        files = sorted(Path(folder).glob("trial-*.pt"))
        return {int(file.stem.split("-")[1]): _read(file) for file in files}


def _read(file: Path) -> Fitted:
    content = io.BytesIO(file.read_bytes())
    with torch.serialization.safe_globals([Trial]):
        return Fitted(**torch.load(content, map_location="cpu", weights_only=True))
