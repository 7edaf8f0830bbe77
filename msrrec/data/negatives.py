"""New candidate sets for the examples of a dataset: with more negatives, or harder ones.

The same items are excluded as in the frozen sets, and the same dataset always gives the same sets.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msrrec.data.candidates import CandidateSampler, Propose
from msrrec.data.dataset import USERS_FILE, Dataset
from msrrec.data.leave_one_out import HELD_OUT, target_places
from msrrec.data.partitions import Partitions
from msrrec.data.places import Places
from msrrec.data.sequences import Cuts, Sequences
from msrrec.errors import DataError
from msrrec.schema import Example
from msrrec.titles import normalize_title

Kind = Literal["uniform", "popular", "category"]
KINDS: tuple[Kind, ...] = ("uniform", "popular", "category")

IntArray = NDArray[np.int64]


def draw_candidates(
    dataset: Dataset, split: Literal["validation", "test"], kind: Kind, num_negatives: int | None
) -> Partitions:
    """The examples of a split with new candidate sets; targets are spread evenly over positions.

    The codes of all sets are in memory, eight bytes a candidate, and examples a partition at a
    time.

    Args:
        dataset: A dataset that includes the events of its users.
        split: Split of the examples.
        kind: How negatives are drawn: uniformly, by training purchases, or from the target's
            narrowest category that has at least three items per negative, else from all items.
        num_negatives: Number per set; None: as many as in the frozen sets.

    Raises:
        DataError: If the dataset has no events, or too few items are left for a user.
    """
    if num_negatives is None:
        num_negatives = int(dataset.manifest["config"]["num_negatives"])
    item_ids = list(dataset.items)
    users, sequences = _read_events(dataset)
    keys = [normalize_title(item.title) for item in dataset.items.values()]
    titles = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    propose: Propose | None = None
    if kind == "popular":
        propose = _by_purchases(sequences, len(item_ids))
    elif kind == "category":
        propose = _by_category(dataset, 3 * num_negatives)
    sampler = CandidateSampler(sequences, titles, num_negatives, propose)
    sampler.check(users.ids, "evaluate.num_negatives")
    examples, starts = dataset.partitions(split), sequences.starts
    owners = _find_owners(examples, users)
    targets = target_places(starts[owners + 1], split)
    rng = np.random.default_rng([int(dataset.manifest["seed"]), 10 + KINDS.index(kind)])
    drawn = sampler.draw(Cuts(owners, starts[owners], targets), rng)

    def read() -> Iterator[Sequence[Example]]:
        rows = iter(drawn)
        for part in examples.read():
            yield [
                replace(example, candidates=tuple(item_ids[code] for code in row))
                for example, row in zip(part, rows, strict=False)
            ]

    return Partitions(examples.num_examples, read)


def _read_events(dataset: Dataset) -> tuple[Places, Sequences]:
    """The users, and their events as codes of the catalogue."""
    codes = {item_id: n for n, item_id in enumerate(dataset.items)}
    users, items, ends = list[pa.Array](), array("q"), array("q", [0])
    for names, events in dataset.iter_event_parts():
        users.append(pa.array(names, pa.large_string()))
        for event in events:
            items.extend(codes[item_id] for item_id in event)
            ends.append(len(items))
    ids = pa.chunked_array(users, pa.large_string()).combine_chunks()
    sequences = Sequences(np.array(items, dtype=np.int64), np.array(ends, dtype=np.int64))
    return Places(ids), sequences


def _find_owners(examples: Partitions, users: Places) -> IntArray:
    """The place of the user of each example.

    Raises:
        DataError: If the events lack one.
    """
    found = [np.array([], dtype=np.int64)]
    for part in examples.read():
        places = users.find_each([e.user_id for e in part])
        if (places < 0).any():
            example = part[int(places.argmin())]
            raise DataError(
                f"example {example.example_id}: its user {example.user_id!r} has no purchases in "
                f"{USERS_FILE}; expected every user there; run `msrrec prepare` again"
            )
        found.append(places)
    return np.concatenate(found)


def _by_purchases(sequences: Sequences, num_items: int) -> Propose:
    """Draw items in proportion to their number of training events."""
    is_training = np.ones(len(sequences.items), dtype=bool)
    for split in HELD_OUT:
        is_training[target_places(sequences.starts[1:], split)] = False
    bought = np.bincount(sequences.items[is_training], minlength=num_items)
    ends = np.cumsum(bought)

    def propose(targets: IntArray, rng: np.random.Generator) -> IntArray:
        return np.searchsorted(ends, rng.integers(ends[-1], size=targets.shape), side="right")

    return propose


def _by_category(dataset: Dataset, least: int) -> Propose:
    """Draw from the target's narrowest category with ``least`` items, else from all items."""
    members: dict[str, list[int]] = {}
    for code, item in enumerate(dataset.items.values()):
        for category in dict.fromkeys(item.categories):
            members.setdefault(category, []).append(code)
    pools = [list(range(len(dataset.items))), *members.values()]
    numbers = {category: n for n, category in enumerate(members, 1)}
    begins = np.cumsum([0, *map(len, pools)])
    flat = np.concatenate([np.array(pool, dtype=np.int64) for pool in pools])
    own = np.array(
        [_narrowest(item.categories, members, numbers, least) for item in dataset.items.values()]
    )

    def propose(targets: IntArray, rng: np.random.Generator) -> IntArray:
        pool = own[targets]
        return np.asarray(flat[rng.integers(begins[pool], begins[pool + 1])])

    return propose


def _narrowest(
    categories: Sequence[str],
    members: dict[str, list[int]],
    numbers: dict[str, int],
    least: int,
) -> int:
    """The pool that each item's negatives come from; pool 0 holds all items."""
    fitting = (numbers[c] for c in reversed(categories) if len(members[c]) >= least)
    return next(fitting, 0)
