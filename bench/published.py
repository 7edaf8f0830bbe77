"""Sequential systems in the protocol of eSASRec (2508.06450), beside the paper's figures.

    python -m bench.published --work DIR --interactions FILE --published toys --seeds 3

Leave-one-out, histories of 50, ranking over the whole catalogue without the items of the history,
up to 200 epochs of batches of 128 users, and the epoch with the best Recall@10 on validation. Each
seed's result, and its state after each epoch, is a file in DIR, so that a second call trains only
what is missing. ``--size 256`` is the size in the authors' configuration files (configs/paper/loo);
their README names 64.

Purchases of the same day keep the file's order. If that is the order of the items' ids, as where
the reviews were sorted by item, the target is the highest id of its day, which helps every system
that learns from order. ``--ties random`` shuffles each user's purchases of a day.
"""

import argparse
import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench.sequential import Sequences, read_events
from msrrec.baselines.sequential.esasrec import ESasRec
from msrrec.baselines.sequential.loss import LossName
from msrrec.baselines.sequential.rows import Purchases
from msrrec.baselines.sequential.sasrec_official import GSasRec, SasRecOneBlock
from msrrec.baselines.sequential.system import Sequential
from msrrec.baselines.sequential.trainer import FitSettings, train_epoch
from msrrec.data.leave_one_out import HeldOut, places_from_end, training_part
from msrrec.errors import ModelError
from msrrec.metrics.ranking import hr_at_k, ndcg_at_k
from msrrec.retrieval.sequential.network import Network, encode_histories

logger = logging.getLogger("msrrec.bench")

LENGTH, USERS_PER_BATCH, MAX_EPOCHS, CUTOFF, USERS_AT_ONCE = 50, 128, 200, 10, 2048
SYSTEMS: dict[str, tuple[type[Sequential], LossName]] = {
    "sasrec-sampled": (SasRecOneBlock, "sampled"),
    "esasrec": (ESasRec, "sampled"),
    "gsasrec": (GSasRec, "gbce"),
}
PUBLISHED = {
    "beauty": {"sasrec-sampled": (0.0921, 0.0531), "esasrec": (0.0928, 0.0523)},
    "toys": {"sasrec-sampled": (0.0970, 0.0580), "esasrec": (0.0939, 0.0538)},
}
"""Recall@10 and NDCG@10 of 2508.06450 (github.com/blondered/transformer_benchmark, README)."""


@dataclass(frozen=True)
class Result:
    """The figures of one seed.

    Attributes:
        recall, ndcg: Recall@10 and NDCG@10 on test.
        validation: The best Recall@10 on validation, reached in ``best_epoch``.
        seconds: Wall time of training and validation.
    """

    recall: float
    ndcg: float
    validation: float
    best_epoch: int
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What decides a seed's result, besides the events.

    Attributes:
        patience: Training ends after so many epochs without a better validation.
        every: Epochs between validations.
        size: Size of an item's vector; None for the system's usual one.
        loss: The loss; None for the one that the system is published with.
    """

    system: str
    seed: int
    patience: int
    max_epochs: int
    every: int = 1
    size: int | None = None
    loss: LossName | None = None

    def file(self, work: Path, sequences: Sequences) -> Path:
        """Where its result is kept; its checkpoint has the same name with ``.pt``."""
        told = {name: value for name, value in asdict(self).items() if name != "loss" or value}
        parts = json.dumps([told, sequences]).encode()
        key = hashlib.sha256(parts).hexdigest()[:12]
        return work / f"{self.system}-{self.seed}-{key}.json"


class Training:
    """The training of one seed, which can be saved after each epoch and resumed."""

    def __init__(self, plan: Plan, sequences: Sequences) -> None:
        """Build the untrained network, with 128 users per batch on average."""
        system, published = SYSTEMS[plan.system]
        trial = replace(system.usual, size=plan.size or system.usual.size)
        self.plan, self.sequences = plan, sequences
        self.purchases = Purchases([training_part(codes) for codes in sequences])
        batch = round(USERS_PER_BATCH * self.purchases.num_targets / len(sequences))
        self.settings = FitSettings(
            LENGTH, batch, plan.max_epochs, plan.patience, plan.seed, plan.loss or published
        )
        torch.manual_seed(plan.seed)
        self.rng = np.random.default_rng(plan.seed)
        make: Any = system.network
        self.network: Network = make(max(map(max, sequences)), len(sequences), LENGTH, trial)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=trial.learning_rate, fused=True
        )
        self.epoch, self.best_epoch, self.best, self.seconds = 0, 0, -1.0, 0.0
        self.weights: dict[str, torch.Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether the last epoch is reached, or patience is at its end."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= self.plan.max_epochs or (
            bool(self.weights) and waited >= self.plan.patience
        )

    def advance(self) -> None:
        """Train one epoch and, if it is time, validate and keep the weights if they are best."""
        begin = time.perf_counter()
        loss = train_epoch(self.network, self.purchases, self.settings, self.optimizer, self.rng)
        self.epoch += 1
        told = f"{self.plan.system}, seed {self.plan.seed}, epoch {self.epoch}: loss {loss:.3f}"
        if self.epoch % self.plan.every == 0 or self.epoch == self.plan.max_epochs:
            figure = mean(hr_at_k(self.ranks("validation"), CUTOFF))
            if figure > self.best:
                self.best, self.best_epoch = figure, self.epoch
                self.weights = {n: v.clone() for n, v in self.network.state_dict().items()}
            told += f", validation {figure:.4f}, best {self.best:.4f}"
        self.seconds += time.perf_counter() - begin
        logger.info("bench: %s", told)

    def ranks(self, split: HeldOut) -> list[int]:
        """Ranks of a split's targets with the current weights."""
        return target_ranks(self.network, self.sequences, places_from_end(split))

    def result(self) -> Result:
        """The figures on test of the best weights; the current ones are lost."""
        self.network.load_state_dict(self.weights)
        ranks = self.ranks("test")
        recall, ndcg = mean(hr_at_k(ranks, CUTOFF)), mean(ndcg_at_k(ranks, CUTOFF))
        seconds = round(self.seconds, 1)
        return Result(recall, ndcg, self.best, self.best_epoch, self.epoch, seconds)

    def save(self, file: Path) -> None:
        """Write everything that the next epoch depends on."""
        part = file.with_suffix(".part")
        progress = self.epoch, self.best_epoch, self.best, self.seconds
        numpy = json.dumps(self.rng.bit_generator.state)
        nets = self.network.state_dict(), self.optimizer.state_dict(), self.weights
        torch.save([progress, numpy, torch.get_rng_state(), *nets], part)
        part.rename(file)

    def resume(self, file: Path) -> None:
        """Read what ``save`` wrote."""
        progress, numpy, rng, network, optimizer, weights = torch.load(file, weights_only=True)
        self.epoch, self.best_epoch, self.best, self.seconds = progress
        self.rng.bit_generator.state = json.loads(numpy)
        torch.set_rng_state(rng)
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)
        self.weights = weights


def ranks_of(
    scores_BV: torch.Tensor, histories: Sequence[Sequence[int]], targets: Sequence[int]
) -> list[int]:
    """Ranks of the targets among all items but those of the history.

    Args:
        scores_BV: Scores of all items; column v has the item of code v + 1. It is overwritten.
        histories: The codes of each row's history.
        targets: The code of each row's target, which is not in its history.

    Raises:
        ModelError: If a score is not finite.
    """
    if not scores_BV.isfinite().all():
        raise ModelError("a score is not finite; expected finite ones, as others give no rank")
    own = scores_BV.gather(1, torch.tensor(targets)[:, None] - 1)
    lengths = torch.tensor([len(codes) for codes in histories])
    rows = torch.arange(len(histories)).repeat_interleave(lengths)
    seen = torch.tensor(list(chain.from_iterable(histories))) - 1
    scores_BV[rows, seen] = -torch.inf
    return [int(n) for n in torch.count_nonzero(scores_BV >= own, dim=1)]


def target_ranks(network: Network, sequences: Sequences, held_out: int) -> list[int]:
    """Ranks of the event ``held_out`` places from the end, for all users.

    It is fast where neighbours have histories of similar length, because padding is cut off.
    """
    found: list[int] = []
    for begin in range(0, len(sequences), USERS_AT_ONCE):
        part = sequences[begin : begin + USERS_AT_ONCE]
        histories = [codes[:-held_out] for codes in part]
        users = list(range(begin + 1, begin + 1 + len(part)))
        width = min(LENGTH, max(map(len, histories)))
        with torch.inference_mode():
            scores = encode_histories(network, histories, users, width) @ network.table.T
            found += ranks_of(scores, histories, [codes[-held_out] for codes in part])
    return found


def result_of(plan: Plan, sequences: Sequences, work: Path, deadline: float) -> Result | None:
    """A seed's result, from its file if it has run before; None if time is over before its end.

    Args:
        plan: What to train.
        sequences: The events of all users.
        work: Folder of the results and checkpoints.
        deadline: On the clock of ``time.monotonic``; no epoch begins after it.
    """
    file = plan.file(work, sequences)
    if file.exists():
        return Result(**json.loads(file.read_text()))
    checkpoint, training = file.with_suffix(".pt"), Training(plan, sequences)
    if checkpoint.exists():
        training.resume(checkpoint)
    while not training.is_over:
        if time.monotonic() >= deadline:
            return None
        training.advance()
        training.save(checkpoint)
    result = training.result()
    file.write_text(json.dumps(asdict(result)))
    checkpoint.unlink(missing_ok=True)
    return result


def verdict(found: Sequence[float], published: float | None) -> str:
    """A sentence on where a published figure lies in the spread of ours over seeds.

    The spread is two standard deviations to each side of the mean.
    """
    told = f"{mean(found):.4f} ({min(found):.4f} to {max(found):.4f}, seeds: {len(found)})"
    if published is None:
        return f"{told}, none published"
    spread = 2 * stdev(found) if len(found) > 1 else 0.0
    difference = mean(found) - published
    place = "inside" if abs(difference) <= spread else "above" if difference > 0 else "below"
    return (
        f"{told}, published {published:.4f}: {place} "
        f"(difference {difference:+.4f}, two standard deviations {spread:.4f})"
    )


def report(system: str, results: Sequence[Result], dataset: str) -> list[str]:
    """A line for each metric of a system."""
    recall, ndcg = PUBLISHED[dataset].get(system, (None, None))
    epochs, seconds = ([getattr(r, name) for r in results] for name in ("best_epoch", "seconds"))
    return [
        f"{system}, R@10: {verdict([r.recall for r in results], recall)}",
        f"{system}, NDCG@10: {verdict([r.ndcg for r in results], ndcg)}",
        f"{system}, best epochs {epochs}, seconds {seconds}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing and print a line per system and metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench-published"))
    parser.add_argument("--interactions", required=True, help="CSV: user_id, item_id, timestamp")
    parser.add_argument("--published", choices=PUBLISHED, required=True, help="whose figures")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patience", type=int, default=50)
    parser.add_argument("--size", type=int, help="size of an item's vector")
    parser.add_argument("--every", type=int, default=1, help="epochs between validations")
    parser.add_argument("--minutes", type=float, default=math.inf, help="go on in the next call")
    parser.add_argument("--ties", choices=("file", "random"), default="file")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    events = read_events(arguments.interactions, 5, 0 if arguments.ties == "random" else None)
    sequences = sorted(events, key=len)
    size = len(sequences), max(map(max, sequences)), sum(map(len, sequences))
    print("{} users, {} items, {} events".format(*size), flush=True)
    deadline = time.monotonic() + 60 * arguments.minutes
    for system in arguments.systems:
        plans = (
            Plan(system, seed, arguments.patience, MAX_EPOCHS, arguments.every, arguments.size)
            for seed in range(arguments.seeds)
        )
        found = [result_of(plan, sequences, arguments.work, deadline) for plan in plans]
        results = [result for result in found if result is not None]
        if results:
            print(*report(system, results, arguments.published), sep="\n", flush=True)
        if len(results) < len(found):
            print(f"{system}: {len(found) - len(results)} seeds are not finished", flush=True)


if __name__ == "__main__":
    main()
