"""Time an epoch of SASRec beside RecTools 0.19's, with the network and loss of the parity.

    python -m bench.rectools_speed --work DIR --rounds 3

``bench.rectools_parity`` shows that both sides reach the same figures with these settings: one
block, one head, size 64, softmax over all items, 128 users a batch. The events are generated. All
take turns, with one thread and histories of up to 10, in processor seconds of an epoch; the first
epoch of each process is left out. RecTools is timed as a user fits its model, and with its faster
network in a plain loop. It pads every history to the longest, ours to the longest of a batch, so
longer histories are easier for ours: of up to 50, as in the parity, RecTools took 34 times as long.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from time import process_time

import torch

from bench.published import Plan, Training
from bench.record import Aim, Result, Row, add_option, keep
from bench.rectools_parity import MAX_EPOCHS, PACKAGES, PATIENCE, SYSTEM, make_job
from bench.sequential import SIZES, Sequences, ask_peer, make_environment, make_events
from msrrec.baselines.sequential.trainer import train_epoch

LENGTH = 10
PEERS = {
    "RecTools 0.19, SASRecModel": {"is_flat": False},
    "RecTools 0.19, FlatSASRecNet in a plain loop": {"is_flat": True},
}
EPOCHS = {"1,500 users": 6, "100,000 interactions": 2}


def time_ours(sequences: Sequences, epochs: int) -> list[float]:
    """Processor seconds of each epoch but the first."""
    training = Training(Plan(SYSTEM, 0, PATIENCE, MAX_EPOCHS, loss="softmax"), sequences)
    settings = replace(training.settings, length=LENGTH)
    found = []
    for _ in range(epochs):
        begin = process_time()
        train_epoch(
            training.network, training.purchases, settings, training.optimizer, training.rng
        )
        found.append(process_time() - begin)
    return found[1:]


def time_products(sequences: Sequences) -> float:
    """Processor seconds of the three matrix products of an epoch's exact softmax, alone."""
    training = Training(Plan(SYSTEM, 0, PATIENCE, MAX_EPOCHS, loss="softmax"), sequences)
    table = training.network.table.detach()
    size = training.settings.batch_size
    states = torch.randn(size, table.shape[1])
    num_batches = training.purchases.num_targets / size
    best = math.inf
    for _ in range(3):
        begin = process_time()
        scores = states @ table.T
        scores @ table
        scores.T @ states
        best = min(best, process_time() - begin)
    return best * num_batches


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench-rectools"))
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    python = make_environment(args.work / "rectools", [PACKAGES])
    rows = []
    for title, size in SIZES.items():
        sequences, epochs = sorted(make_events(*size), key=len), EPOCHS[title]
        file = args.work / "speed.json"
        file.write_text(json.dumps(sequences))
        job = make_job(file, 0, "softmax", LENGTH) | {"epochs": epochs}
        times: dict[str, list[float]] = {"ours": [], **{name: [] for name in PEERS}}
        for _ in range(args.rounds):
            times["ours"].append(min(time_ours(sequences, epochs)))
            for name, settings in PEERS.items():
                told = ask_peer("RecTools", python, "rectools_side.py", job | settings)
                times[name].append(min(told["cpu_s"][1:]))
        print(title, times, file=sys.stderr, flush=True)
        for name in PEERS:
            least = min(times[name]) / time_products(sequences)
            row = Row(
                f"SASRec epoch, {title}",
                times["ours"],
                times[name],
                name,
                "s",
                ratio_of="peer / ours",
                aim=Aim("at least", 3),
                floor=f"{least:.2g}, the softmax's products alone",
            )
            print(f"{row.what}, {name}: {row.ratios()}")
            rows.append(row)
    keep(args.result, Result(rows, args.rounds, ("torch",)))


if __name__ == "__main__":
    main()
