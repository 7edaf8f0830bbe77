"""SASRec, GRU4Rec and Caser beside RecBole 1.2.1: the same figures, and the time of an epoch.

    python -m bench.sequential --work DIR parity --interactions FILE --seeds 3
    python -m bench.sequential --work DIR speed --rounds 3

The first call makes RecBole's own environment in ``DIR/recbole``: its pins are older than ours, and
the parts of it that want an old Ray stay outside. Both sides get one thread, the same events,
leave-one-out split, histories of 10, learning rate and early stopping by MRR@10 over the whole
catalogue. ``parity`` ends with 1 unless our mean over the seeds lies within the range of RecBole's
seeds: a system far above another is as little the same as one far below. ``speed`` takes turns
within one run and keeps each side's best epoch but for the first, which is a cold one, in CPU
seconds.
"""

import argparse
import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from msrrec.baselines.sequential.caser import Caser
from msrrec.baselines.sequential.gru4rec import Gru4Rec
from msrrec.baselines.sequential.rows import Purchases
from msrrec.baselines.sequential.sasrec import SasRec
from msrrec.baselines.sequential.trainer import FitSettings, train_epoch, train_trial
from msrrec.data.leave_one_out import places_from_end, training_part
from msrrec.metrics.ranking import hr_at_k, ndcg_at_k
from msrrec.retrieval.sequential.network import Network, encode_histories

logger = logging.getLogger("msrrec.bench")

SYSTEMS = {"SASRec": SasRec, "GRU4Rec": Gru4Rec, "Caser": Caser}
PACKAGES = (
    "torch==2.13.0",
    "numpy==1.26.4",
    "pandas==2.2.3",
    "scipy",
    "scikit-learn",
    "tqdm",
    "pyyaml",
    "tabulate",
    "texttable",
    "psutil",
    "colorlog==4.7.2",
    "colorama==0.4.4",
)
LENGTH, BATCH_SIZE, PATIENCE, MAX_EPOCHS = 10, 2048, 10, 300
"""RecBole's defaults except for the length, on both sides."""
CUTOFF = 10
SIZES = {"1,500 users": (1_500, 5_678, 9_755), "100,000 interactions": (9_000, 9_000, 100_000)}
"""Numbers of users, items and events."""

Sequences = list[list[int]]


def make_environment(folder: Path, packages: Sequence[Sequence[str]]) -> str:
    """Python of another system's environment, which is made if it is missing.

    Args:
        folder: The environment.
        packages: Arguments of ``pip install``, one call after the other.
    """
    python = str(folder / "bin" / "python")
    if not (folder / "made").exists():
        logger.info("bench: making the environment in %s", folder)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for some in packages:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *some], check=True)
        (folder / "made").touch()
    return python


def ask_peer(name: str, python: str, script: str, job: dict[str, Any]) -> dict[str, Any]:
    """The output of another system's side for a job.

    Args:
        name: The other system.
        python: Python of its environment.
        script: Its side, a file of this folder.
        job: What it is to do; JSON values only.
    """
    place = str(Path(__file__).with_name(script))
    done = subprocess.run(
        [python, place, json.dumps(job)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"bench: {name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def make_recbole(work: Path) -> str:
    """Python of RecBole's environment."""
    return make_environment(work / "recbole", [PACKAGES, ("--no-deps", "recbole==1.2.1")])


def ask_recbole(python: str, job: dict[str, Any]) -> dict[str, Any]:
    """The output of RecBole's side for a job."""
    return ask_peer("RecBole", python, "recbole_side.py", job)


def write_events(sequences: Sequences, work: Path, name: str) -> None:
    """Write all events in RecBole's format; the position in a sequence is the time."""
    folder = work / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [
        f"{u}\t{item}\t{k}" for u, codes in enumerate(sequences) for k, item in enumerate(codes)
    ]
    (folder / f"{name}.inter").write_text("\n".join(lines))


def read_events(path: str, k_core: int, tie_seed: int | None = None) -> Sequences:
    """Item codes from 1, user by user and oldest first, of the k-core of an interactions file.

    A user's events of the same time keep the file's order, or get a random one by ``tie_seed``.
    """
    events = pl.read_csv(path)
    if tie_seed is not None:
        events = events.sample(fraction=1.0, shuffle=True, seed=tie_seed)
    events = events.sort("user_id", "timestamp", maintain_order=True)
    while True:
        kept = events.filter(
            (pl.len().over("user_id") >= k_core) & (pl.len().over("item_id") >= k_core)
        )
        if len(kept) == len(events):
            break
        events = kept
    codes = events.with_columns(pl.col("item_id").rank("dense").cast(pl.Int64))
    return codes.group_by("user_id", maintain_order=True).agg("item_id")["item_id"].to_list()


def make_events(num_users: int, num_items: int, num_events: int) -> Sequences:
    """Users of at least 5 events with items of a skewed popularity; every item is bought."""
    rng = np.random.default_rng(0)
    lengths = 5 + rng.multinomial(num_events - 5 * num_users, np.full(num_users, 1 / num_users))
    weights = 1 / np.arange(1, num_items + 1) ** 0.6
    drawn = 1 + rng.choice(num_items, num_events, p=weights / weights.sum())
    drawn[rng.permutation(num_events)[:num_items]] = np.arange(1, num_items + 1)
    return [part.tolist() for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def build(name: str, sequences: Sequences, seed: int) -> Network:
    """An untrained network with the usual settings."""
    torch.manual_seed(seed)
    system: Any = SYSTEMS[name]
    network: Network = system.network(
        max(map(max, sequences)), len(sequences), LENGTH, system.usual
    )
    return network


def target_ranks(network: Network, sequences: Sequences, held_out: int) -> list[int]:
    """Ranks among all items of the event ``held_out`` places from the end."""
    histories = [codes[:-held_out] for codes in sequences]
    users = list(range(1, len(sequences) + 1))
    states = encode_histories(network, histories, users, LENGTH)
    with torch.inference_mode():
        scores = states @ network.table.T
        targets = torch.tensor([codes[-held_out] - 1 for codes in sequences])
        own = scores.gather(1, targets[:, None])
        return [int(n) for n in (scores >= own).sum(1)]


def fit_ours(name: str, sequences: Sequences, seed: int) -> dict[str, float]:
    """This project's test figures, trained like RecBole's."""
    system: Any = SYSTEMS[name]
    settings = FitSettings(LENGTH, BATCH_SIZE, MAX_EPOCHS, PATIENCE, seed)
    network = build(name, sequences, seed)

    def validate(current: Network) -> float:
        ranks = target_ranks(current, sequences, places_from_end("validation"))
        return mean(1 / rank if rank <= CUTOFF else 0.0 for rank in ranks)

    purchases = Purchases([training_part(codes) for codes in sequences])
    fitted = train_trial(network, purchases, system.usual, settings, validate)
    network.load_state_dict(fitted.state)
    ranks = target_ranks(network, sequences, places_from_end("test"))
    logger.info("bench: ours, %s, seed %d: best of %d epochs", name, seed, len(fitted.epoch_s))
    return {
        "recall@10": round(mean(hr_at_k(ranks, CUTOFF)), 4),
        "ndcg@10": round(mean(ndcg_at_k(ranks, CUTOFF)), 4),
    }


def recbole_job(work: Path, name: str, model: str, seed: int) -> dict[str, Any]:
    """Common fields of jobs for RecBole."""
    return {
        "folder": str((work / "data").absolute()),
        "name": name,
        "model": model,
        "seed": seed,
        "length": LENGTH,
        "learning_rate": SYSTEMS[model].usual.learning_rate,
        "batch_size": BATCH_SIZE,
        "threads": 1,
    }


def parity(arguments: argparse.Namespace) -> None:
    """Print Recall@10 and NDCG@10 of both sides over seeds, one line of JSON per model.

    The exit code is 1 if a model's figures differ.
    """
    if arguments.seeds < 2:
        sys.exit(f"--seeds {arguments.seeds}: one seed has no range; expected at least 2")
    python = make_recbole(arguments.work)
    sequences = read_events(arguments.interactions, arguments.k_core)
    write_events(sequences, arguments.work, "parity")
    differing: list[str] = []
    for model in arguments.models:
        found: dict[str, list[dict[str, float]]] = {"ours": [], "recbole": []}
        for seed in range(arguments.seeds):
            found["ours"].append(fit_ours(model, sequences, seed))
            job = recbole_job(arguments.work, "parity", model, seed)
            job |= {"max_epochs": MAX_EPOCHS, "patience": PATIENCE}
            found["recbole"].append(ask_recbole(python, job))
            logger.info("bench: %s, seed %d: %s", model, seed, {k: v[-1] for k, v in found.items()})
        told = compare_seeds(found, "recbole")
        differing += [model] if any(row["verdict"] != "within" for row in told.values()) else []
        print(json.dumps({"model": model, **told}), flush=True)
    if differing:
        sys.exit(f"outside the range of RecBole's seeds: {', '.join(differing)}")


def compare_seeds(found: dict[str, list[dict[str, float]]], peer: str) -> dict[str, dict[str, Any]]:
    """By metric: means of both sides, their ranges, and whether ours is the same as the peer's.

    Args:
        found: Figures of each seed, by ``ours`` and the peer's name.
        peer: The other system.
    """
    told: dict[str, dict[str, Any]] = {}
    for metric in ("recall@10", "ndcg@10"):
        ours, theirs = ([run[metric] for run in found[side]] for side in ("ours", peer))
        told[metric] = {
            "ours": round(mean(ours), 4),
            "ours_range": [min(ours), max(ours)],
            peer: round(mean(theirs), 4),
            f"{peer}_range": [min(theirs), max(theirs)],
            "verdict": judge_mean(mean(ours), theirs),
        }
    return told


def judge_mean(ours: float, theirs: Sequence[float]) -> Literal["below", "within", "above"]:
    """Where a mean lies against the range of another implementation's seeds."""
    if ours < min(theirs):
        return "below"
    return "above" if ours > max(theirs) else "within"


def speed(arguments: argparse.Namespace) -> None:
    """Print CPU seconds per epoch on both sides, one line of JSON per model and size."""
    python = make_recbole(arguments.work)
    for title, size in SIZES.items():
        sequences, epochs = make_events(*size), 4 if size[2] < 20_000 else 2
        write_events(sequences, arguments.work, "speed")
        for model in arguments.models:
            best = {"ours": math.inf, "recbole": math.inf}
            for _ in range(arguments.rounds):
                job = recbole_job(arguments.work, "speed", model, 0) | {"epochs": epochs}
                best["recbole"] = min(best["recbole"], *ask_recbole(python, job)["cpu_s"][1:])
                best["ours"] = min(best["ours"], *time_ours(model, sequences, epochs)[1:])
            ratio = round(best["recbole"] / best["ours"], 2)
            seconds = {side: round(value, 3) for side, value in best.items()}
            print(
                json.dumps({"size": title, "model": model, **seconds, "times": ratio}), flush=True
            )


def time_ours(name: str, sequences: Sequences, epochs: int) -> list[float]:
    """CPU seconds of each epoch."""
    network = build(name, sequences, 0)
    purchases = Purchases([training_part(codes) for codes in sequences])
    settings = FitSettings(LENGTH, BATCH_SIZE, MAX_EPOCHS, PATIENCE, 0)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    rng, found = np.random.default_rng(0), []
    for _ in range(epochs):
        begin = time.process_time()
        train_epoch(network, purchases, settings, optimizer, rng)
        found.append(time.process_time() - begin)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Parse arguments and run one of the two benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench-sequential"))
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("parity")
    one.add_argument("--interactions", required=True, help="CSV: user_id, item_id, timestamp")
    one.add_argument("--k-core", type=int, default=5)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--models", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    one.set_defaults(run=parity)
    other = commands.add_parser("speed")
    other.add_argument("--rounds", type=int, default=3)
    other.add_argument("--models", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    other.set_defaults(run=speed)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
