r"""How often retrieval finds what a user buys next in a whole catalogue: each retriever, the union.

    python -m bench.retrieval --work DIR amazon2014-toys ml-latest-small …

Each argument is a folder with ``interactions.csv.gz`` and ``items.csv.gz``. It is prepared with all
users into ``DIR/<name>/dataset``, and an index of its training purchases is built; weights are
chosen on validation. Then every test user's target is looked for with all earlier purchases as the
history. Where ``DIR/<name>/sasrec`` exists, SASRec is a retriever too:

    msrrec evaluate --dataset DIR/<name>/dataset --model sasrec --out DIR/<name>/sasrec \
      baselines.trials=1

``coverage@k`` is the share of users whose target is among the first k, ``HR@10`` the same for 10.
Targets are parted by the training purchases: head items are the most bought ones that make up half
of them, tail items the others that anybody bought, cold items those that nobody did. Times are
processor time of one query at a time, k = 200; products of vectors may use several cores.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msrrec.config import RETRIEVERS, DataConfig, RetrievalConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.data.prepare import prepare
from msrrec.evaluation.write import NETWORK
from msrrec.retrieval.build import build_index
from msrrec.retrieval.index import Index
from msrrec.schema import Item

CUTOFFS = (10, 20, 200)
DEPTH = 200
TIMED_QUERIES = 200
NEW_ITEMS = 100_000
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Users:
    """The users of the test split.

    Attributes:
        histories: All purchases before the target, in item ids.
        targets: Item codes.
    """

    histories: list[list[str]]
    targets: IntArray


def read_users(dataset: Dataset, index: Index, limit: int) -> Users:
    """The first users of a dataset; 0 takes all."""
    histories, targets = [], []
    for _, items in dataset.iter_events():
        if limit and len(histories) >= limit:
            break
        histories.append(items[:-1])
        targets.append(index.catalogue.codes[items[-1]])
    return Users(histories, np.array(targets, dtype=np.int64))


def weigh_alone(settings: RetrievalConfig, name: str | None) -> RetrievalConfig:
    """Settings with one retriever alone; None: all of them with a weight of 1."""
    weights = {other: 1.0 if name in (None, other) else 0.0 for other in RETRIEVERS}
    given = settings.model_dump() | {"weights": weights}
    return RetrievalConfig.model_validate(given)


def place_targets(index: Index, users: Users) -> dict[str, IntArray]:
    """Each target's place from 0 in the ranking of each retriever and in the union.

    ``DEPTH`` means that it was not found.
    """
    everything = index.configure(weigh_alone(index.settings, None))
    uses_all = len(index.used) == len(index.retrievers)
    found: dict[str, list[int]] = {r.name: [] for r in index.retrievers} | {"union": []}
    size = 1000
    for begin in range(0, len(users.histories), size):
        part = users.histories[begin : begin + size]
        unions = index.rank(part, DEPTH)
        parts = unions if uses_all else everything.rank(part, DEPTH)
        targets = users.targets[begin : begin + size]
        for target, union, own in zip(targets, unions, parts, strict=True):
            found["union"].append(_place(union.union.codes, target))
            for name, codes in own.parts.items():
                found[name].append(_place(codes, target))
    return {name: np.array(places) for name, places in found.items()}


def _place(codes: IntArray, target: int) -> int:
    hits = np.flatnonzero(codes[:DEPTH] == target)
    return int(hits[0]) if len(hits) else DEPTH


def time_queries(index: Index, users: Users) -> dict[str, float]:
    """Milliseconds of processor time for one query, by retriever and for the union."""
    searches = {r.name: index.configure(weigh_alone(index.settings, r.name)) for r in index.used}
    return {n: _time(i, users) for n, i in {**searches, "union": index}.items()}


def _time(index: Index, users: Users) -> float:
    step = max(1, len(users.histories) // TIMED_QUERIES)
    asked = users.histories[::step]
    index.search(asked[:1], DEPTH)
    begin = time.process_time()
    for history in asked:
        index.search([history], DEPTH)
    return (time.process_time() - begin) / len(asked) * 1e3


def part_targets(index: Index, users: Users) -> dict[str, NDArray[np.bool_]]:
    """Which users' targets are of the head, of the tail, and cold."""
    ranked = index.by_popularity[: len(index.buyers)]
    bought = np.cumsum(index.buyers[ranked])
    is_head = np.zeros(len(index.catalogue), dtype=bool)
    is_head[ranked[bought <= bought[-1] / 2]] = True
    is_cold = index.buyers[users.targets] == 0
    head = is_head[users.targets] & ~is_cold
    return {"head": head, "tail": ~head & ~is_cold, "cold": is_cold}


def show_table(
    places: Mapping[str, IntArray],
    parts: Mapping[str, NDArray[np.bool_]],
    times: Mapping[str, float],
) -> str:
    """The table of one dataset in Markdown."""
    heads = ["retriever", *(f"coverage@{k}" for k in CUTOFFS[1:]), f"HR@{CUTOFFS[0]}"]
    heads += [f"{name} @20 / @200" for name in parts] + ["ms"]
    lines = [heads, ["---"] * len(heads)]
    for name, found in places.items():
        shares = [float(np.mean(found < k)) for k in (*CUTOFFS[1:], CUTOFFS[0])]
        row = [name, *(f"{share:.4f}" for share in shares)]
        row += [_share(found[is_in]) for is_in in parts.values()]
        lines.append([*row, f"{times[name]:.1f}" if name in times else "left out"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_ranking(places: Mapping[str, IntArray]) -> str:
    """HR@k and NDCG@10 of each retriever and the union over the whole catalogue, in Markdown."""
    lines = ["| retriever | HR@1 | HR@5 | HR@10 | NDCG@10 |", "|---|---|---|---|---|"]
    for name, found in places.items():
        gains = np.where(found < CUTOFFS[0], 1 / np.log2(found + 2.0), 0.0)
        values = [*(np.mean(found < k) for k in (1, 5, CUTOFFS[0])), np.mean(gains)]
        lines.append(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return "\n".join(lines)


def _share(places: IntArray) -> str:
    if not len(places):
        return "none"
    return " / ".join(f"{np.mean(places < k):.4f}" for k in CUTOFFS[1:])


def measure(folder: Path, work: Path, limit: int, overrides: Sequence[str]) -> None:
    """Prepare, index and measure one folder of purchases, and print its table."""
    out = work / folder.name
    if not (out / "dataset" / "manifest.json").exists():
        files = (str(folder / f"{name}.csv.gz") for name in ("interactions", "items"))
        prepare("table", *files, str(out / "dataset"), DataConfig(num_users=0))
    dataset = Dataset.load(str(out / "dataset"))
    settings = load_config(None, list(overrides)).retrieval
    trained = out / "sasrec" / NETWORK
    begin = time.perf_counter()
    index = build_index(dataset, settings, sasrec=str(trained) if trained.exists() else None)
    seconds = time.perf_counter() - begin
    users = read_users(dataset, index, limit)
    parts = part_targets(index, users)
    counts = ", ".join(f"{int(is_in.sum()):,} {name}" for name, is_in in parts.items())
    weights = ", ".join(f"{name} {weight:g}" for name, weight in index.weights.items())
    print(
        f"\n{folder.name}: {len(users.targets):,} users ({counts} targets), "
        f"{len(index.catalogue):,} items; index built in {seconds:.0f} s; weights: {weights}\n"
    )
    places = place_targets(index, users)
    print(show_table(places, parts, time_queries(index, users)))
    print(f"\n{show_ranking(places)}", flush=True)


def measure_changes(work: Path, name: str) -> None:
    """Print how long it takes to add and remove one item beside 100,000 others."""
    dataset = Dataset.load(str(work / name / "dataset"))
    words = sorted({word for item in dataset.items.values() for word in item.title.split()})
    rng = np.random.default_rng(0)
    titles = [
        " ".join(words[n] for n in row) for row in rng.integers(len(words), size=(NEW_ITEMS, 8))
    ]
    index = build_index(dataset, load_config(None, ["retrieval.tuning_users=0"]).retrieval)
    large = index.add([Item(f"added-{n}", title) for n, title in enumerate(titles)])
    begin = time.perf_counter()
    grown = large.add([Item("one-more", "Something nobody has seen before")])
    added = time.perf_counter()
    grown.remove(["one-more"])
    removed = time.perf_counter()
    found = grown.search([[Item("", "Something that nobody has seen")]], 20)[0]
    is_found = any(item.item_id == "one-more" for item in found)
    print(
        f"\n{len(grown.catalogue):,} items: one added in {added - begin:.2f} s, removed in "
        f"{removed - added:.4f} s, and found by its words: {is_found}"
    )


def main() -> None:
    """Measure every folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--users", type=int, default=0, help="test users, the first; 0 takes all")
    parser.add_argument("--set", action="append", default=[], metavar="retrieval.KEY=VALUE")
    parser.add_argument("--changes", action="store_true", help="time changes of 100,000 items")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        measure(folder, arguments.work, arguments.users, arguments.set)
    if arguments.changes:
        measure_changes(arguments.work, arguments.folders[0].name)


if __name__ == "__main__":
    main()
