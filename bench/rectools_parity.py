"""SASRec with one block beside RecTools 0.19: the same figures over seeds, or not.

    python -m bench.rectools_parity --work DIR --interactions FILE --seeds 3 [--loss sampled]

The first call makes RecTools' own environment in ``DIR/rectools``. Both sides get one thread, the
same events, leave-one-out split, histories of 50, size, dropout, learning rate, 128 users a batch
(ours on average), loss, and early stopping by Recall@10 on validation over the whole catalogue
without the items of the history. The network is the one that 2508.06450 trains with RecTools: one
block, one head, size 64, dropout 0.2. The command ends with 1 unless our mean lies within the
range of RecTools' seeds: a system far above another is as little the same as one far below.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.published import LENGTH, SYSTEMS, USERS_PER_BATCH, Plan, Training
from bench.sequential import ask_peer, compare_seeds, make_environment, read_events
from msrrec.baselines.sequential.loss import NUM_NEGATIVES

logger = logging.getLogger("msrrec.bench")

PACKAGES = ("rectools[torch]==0.19.0", "pandas<3")
"""RecTools 0.19 does not run on pandas 3."""
SYSTEM = "sasrec-sampled"
MAX_EPOCHS, PATIENCE = 150, 15
LOSSES = {"softmax": "softmax", "sampled": "sampled_softmax"}
"""RecTools' names of the losses."""


def fit_ours(sequences: list[list[int]], seed: int, loss: str) -> dict[str, float]:
    """This project's test figures."""
    plan = Plan(SYSTEM, seed, PATIENCE, MAX_EPOCHS, loss=loss)
    training = Training(plan, sequences)
    while not training.is_over:
        training.advance()
    result = training.result()
    return {"recall@10": result.recall, "ndcg@10": result.ndcg}


def make_job(file: Path, seed: int, loss: str, length: int = LENGTH) -> dict[str, Any]:
    """What RecTools' side is to train."""
    usual = SYSTEMS[SYSTEM][0].usual
    return {
        "file": str(file.absolute()),
        "seed": seed,
        "length": length,
        "batch_size": USERS_PER_BATCH,
        "size": usual.size,
        "dropout": usual.dropout,
        "learning_rate": usual.learning_rate,
        "loss": LOSSES[loss],
        "negatives": NUM_NEGATIVES,
        "max_epochs": MAX_EPOCHS,
        "patience": PATIENCE,
        "threads": 1,
    }


def fit_theirs(python: str, file: Path, seed: int, loss: str) -> dict[str, float]:
    """RecTools' test figures."""
    return ask_peer("RecTools", python, "rectools_side.py", make_job(file, seed, loss))


def main(argv: Sequence[str] | None = None) -> None:
    """Print both sides' figures; the exit code is 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench-rectools"))
    parser.add_argument("--interactions", required=True, help="CSV: user_id, item_id, timestamp")
    parser.add_argument("--k-core", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loss", choices=LOSSES, default="softmax")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 2:
        sys.exit(f"--seeds {arguments.seeds}: one seed has no range; expected at least 2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    python = make_environment(arguments.work / "rectools", [PACKAGES])
    sequences = sorted(read_events(arguments.interactions, arguments.k_core), key=len)
    file = arguments.work / "events.json"
    file.write_text(json.dumps(sequences))
    found: dict[str, list[dict[str, float]]] = {"ours": [], "rectools": []}
    for seed in range(arguments.seeds):
        found["ours"].append(fit_ours(sequences, seed, arguments.loss))
        found["rectools"].append(fit_theirs(python, file, seed, arguments.loss))
        logger.info("bench: seed %d: %s", seed, {side: runs[-1] for side, runs in found.items()})
    told = compare_seeds(found, "rectools")
    print(json.dumps({"loss": arguments.loss, **told}), flush=True)
    if any(row["verdict"] != "within" for row in told.values()):
        sys.exit("outside the range of RecTools' seeds")


if __name__ == "__main__":
    main()
