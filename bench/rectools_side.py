"""RecTools' half of ``bench.rectools_parity``: one seed on one file of events, figures as JSON.

Run by the Python of RecTools' own environment, which has neither msrrec nor Ray::

    PYTHON bench/rectools_side.py '{"file": …, "seed": 0, "length": 50, "batch_size": 128, …}'

``file`` holds the item codes of each user, oldest first, as a JSON list of lists.
"""

import copy
import json
import logging
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

CUTOFF = 10


def quiet_trainer() -> Trainer:
    """A trainer that writes nothing."""
    return Trainer(
        accelerator="cpu",
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


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train until validation has been no better for so many epochs, and test the best epoch."""
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    with open(job["file"]) as file:
        sequences = json.load(file)
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
