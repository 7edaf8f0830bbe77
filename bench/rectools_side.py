"""RecTools' half of ``bench.rectools_parity`` and ``bench.rectools_speed``: one seed on one file.

Run by the Python of RecTools' own environment, which has neither msrrec nor Ray::

    PYTHON bench/rectools_side.py '{"file": …, "seed": 0, "length": 50, "batch_size": 128, …}'

``file`` holds the item codes of each user, oldest first, as a JSON list of lists. A job with
``epochs`` is timed: the answer has the processor seconds of each epoch in ``cpu_s``, of its model
as a user fits it, or with ``is_flat`` of its ``FlatSASRecNet`` in a plain loop.
"""

import copy
import json
import logging
import sys
import time
import warnings
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.fast_transformers.net import FlatSASRecNet
from rectools.models import SASRecModel

CUTOFF = 10


class EpochTimes(Callback):
    """Processor seconds of each epoch, kept by the class, as RecTools copies its trainer."""

    cpu_s: ClassVar[list[float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self._begin = time.process_time()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.cpu_s.append(time.process_time() - self._begin)


def quiet_trainer() -> Trainer:
    """A trainer that writes nothing."""
    return Trainer(
        accelerator="cpu",
        callbacks=[EpochTimes()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def events_of(sequences: list[list[int]], held_out: int) -> Dataset:
    """All events but the last ``held_out`` of each user; the position is the time."""
    rows = [
        (user, item, 1.0, pd.Timestamp(place, unit="D"))
        for user, codes in enumerate(sequences)
        for place, item in enumerate(codes[: len(codes) - held_out])
    ]
    names = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]
    return Dataset.construct(pd.DataFrame(rows, columns=names))


def measure(model: SASRecModel, sequences: list[list[int]], held_out: int) -> tuple[float, float]:
    """Recall@10 and NDCG@10 of the event ``held_out`` places from the end."""
    users = np.arange(len(sequences))
    history = events_of(sequences, held_out)
    told = model.recommend(users, history, k=CUTOFF, filter_viewed=True)
    targets = told[Columns.User].map(
        {user: codes[-held_out] for user, codes in enumerate(sequences)}
    )
    ranks = told.loc[told[Columns.Item] == targets, Columns.Rank].to_numpy()
    return len(ranks) / len(users), float((1 / np.log2(ranks + 1)).sum()) / len(users)


def time_flat(job: dict[str, Any], sequences: list[list[int]], held_out: int) -> list[float]:
    """Processor seconds of each epoch of its fast network in a plain loop of Adam."""
    length, num_items = job["length"], max(map(max, sequences))
    net = FlatSASRecNet(num_items, job["size"], 1, 1, length, job["dropout"])
    optimizer = torch.optim.Adam(net.parameters(), lr=job["learning_rate"], fused=True)
    rows = torch.zeros(len(sequences), length + 1, dtype=torch.int64)
    for row, codes in zip(rows, sequences, strict=True):
        kept = torch.tensor(codes[: len(codes) - held_out][-length - 1 :])
        row[-len(kept) :] = kept
    found = []
    for _ in range(job["epochs"]):
        begin = time.process_time()
        for batch in rows[torch.randperm(len(rows))].split(job["batch_size"]):
            x, y = batch[:, :-1], batch[:, 1:]
            kept = (x > 0) & (y > 0)
            logits = net({"x": x, "y": y})
            loss = torch.nn.functional.cross_entropy(logits[kept], y[kept] - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(time.process_time() - begin)
    return found


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train until validation has been no better for so many epochs, and test the best epoch."""
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    with open(job["file"]) as file:
        sequences = json.load(file)
    if job.get("is_flat"):
        return {"cpu_s": time_flat(job, sequences, 2)}
    model = SASRecModel(
        n_blocks=1,
        n_heads=1,
        n_factors=job["size"],
        dropout_rate=job["dropout"],
        session_max_len=job["length"],
        loss=job["loss"],
        n_negatives=job["negatives"],
        lr=job["learning_rate"],
        batch_size=job["batch_size"],
        get_trainer_func=quiet_trainer,
    )
    training = events_of(sequences, 2)
    if "epochs" in job:
        model.fit_partial(training, min_epochs=job["epochs"], max_epochs=job["epochs"])
        return {"cpu_s": EpochTimes.cpu_s}
    best, best_epoch, epoch, weights = -1.0, 0, 0, {}
    while epoch < job["max_epochs"] and epoch - best_epoch < job["patience"]:
        model.fit_partial(training, min_epochs=1, max_epochs=1)
        epoch += 1
        recall, _ = measure(model, sequences, 2)
        if recall > best:
            best, best_epoch = recall, epoch
            weights = copy.deepcopy(model.lightning_model.torch_model.state_dict())
    model.lightning_model.torch_model.load_state_dict(weights)
    recall, ndcg = measure(model, sequences, 1)
    return {"recall@10": recall, "ndcg@10": ndcg, "validation": best, "best_epoch": best_epoch}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print(json.dumps(main(json.loads(sys.argv[1]))))
