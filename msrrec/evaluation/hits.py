"""The hits of a study: one row per arm, seed and user, in a file that any script can write.

``msrrec study`` writes such a file, and ``msrrec study --hits`` reads those of other scripts, so
that every study gets its verdict from the same code.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msrrec import schema, storage
from msrrec.data.arrow import integers, numbers
from msrrec.data.partitions import PARTITION_SIZE
from msrrec.errors import DataError
from msrrec.inference.predictions import Prediction
from msrrec.schema import Example

HITS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("order", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("reading", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field(schema.USER_ID, pa.string(), nullable=False),
        pa.field("index", pa.int64()),
        pa.field("hit", pa.bool_(), nullable=False),
    ]
)
"""``hits.parquet``. ``order`` is that of the prompt's lists, ``reading`` the variant that was read,
``index`` the chosen slot from 0, null where an output names no candidate."""

_CELL = ("dataset", "arm", "order", "reading")
"""The columns that make a cell."""
_CODED = (*_CELL, schema.USER_ID, "example_id")
"""The columns of repeated texts."""


@dataclass(frozen=True)
class Cell:
    """One arm on one dataset, in one order of the prompt's lists, under one reading."""

    dataset: str
    arm: str
    order: str
    reading: str


@dataclass(frozen=True)
class ArmHits:
    """The hits of one cell.

    Attributes:
        users: Users that every seed has, sorted; U of them.
        seeds: Sorted; S of them.
        hits: Shape (U, S), 0 or 1.
        valid: Shape (U, S), whether an output names a candidate.
    """

    users: tuple[str, ...]
    seeds: tuple[int, ...]
    hits: NDArray[np.int64]
    valid: NDArray[np.bool_]

    def select(self, users: Sequence[str], seeds: Sequence[int]) -> "ArmHits":
        """The hits of some of its users and seeds, in that order."""
        if (tuple(users), tuple(seeds)) == (self.users, self.seeds):
            return self
        row = {user: n for n, user in enumerate(self.users)}
        column = {seed: n for n, seed in enumerate(self.seeds)}
        places = np.ix_([row[user] for user in users], [column[seed] for seed in seeds])
        return ArmHits(tuple(users), tuple(seeds), self.hits[places], self.valid[places])


def hits_of(
    cell: Cell, seed: int, examples: Sequence[Example], predictions: Iterable[Prediction]
) -> Iterator[dict[str, object]]:
    """The rows of one evaluation, in the order of its examples."""
    for example, prediction in zip(examples, predictions, strict=True):
        index = prediction.output.index
        yield {
            **vars(cell),
            "seed": seed,
            "example_id": example.example_id,
            schema.USER_ID: example.user_id,
            "index": index,
            "hit": index is not None and example.candidates[index] == example.target,
        }


@dataclass(frozen=True)
class Hits:
    """The rows of files of hits as codes, some tens of bytes a row.

    Attributes:
        cells: In order of first appearance; C of them.
        users: Sorted; U of them.
        cell: Shape (R,). Each row's place in ``cells``.
        user: Shape (R,). Each row's place in ``users``.
        example: Shape (R,). A number for each row's ``example_id``.
        seed: Shape (R,).
        hit: Shape (R,).
        slot: Shape (R,). The chosen slot from 0; -1 where an output names no candidate.
    """

    cells: tuple[Cell, ...]
    users: tuple[str, ...]
    cell: NDArray[np.int64]
    user: NDArray[np.int64]
    example: NDArray[np.int64]
    seed: NDArray[np.int64]
    hit: NDArray[np.bool_]
    slot: NDArray[np.int64]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Shape (R,), whether an output names a candidate."""
        return self.slot >= 0

    @property
    def _keys(self) -> NDArray[np.int64]:
        """A number for each row that equals another's only for the same cell, seed and user."""
        seeds, seed = np.unique(self.seed, return_inverse=True)
        return np.asarray((self.cell * len(seeds) + seed) * len(self.users) + self.user)

    def find_doubled(self) -> int | None:
        """The first row whose user is there twice for its cell and seed; None if none is."""
        _, rows, counts = np.unique(self._keys, return_inverse=True, return_counts=True)
        doubled = counts[rows] > 1
        return int(doubled.argmax()) if doubled.any() else None

    def find_mixed(self) -> int | None:
        """The first row with another example than its user's first on the dataset; None if none."""
        _, dataset = np.unique([cell.dataset for cell in self.cells], return_inverse=True)
        keys = dataset[self.cell] * len(self.users) + self.user
        _, first, rows = np.unique(keys, return_index=True, return_inverse=True)
        mixed = self.example != self.example[first[rows]]
        return int(mixed.argmax()) if mixed.any() else None

    def find_moved(self) -> int | None:
        """The first row that tells another slot of the target than its user's first hit; or None.

        Users are told apart by dataset and order.
        """
        lists = [f"{cell.dataset}\0{cell.order}" for cell in self.cells]
        _, group = np.unique(lists, return_inverse=True)
        found, rows = np.unique(group[self.cell] * len(self.users) + self.user, return_inverse=True)
        target, hits = np.full(len(found), -1), np.flatnonzero(self.hit)[::-1]
        target[rows[hits]] = self.slot[hits]  # of a user's hits the first is set last
        target = target[rows]
        moved = (target >= 0) & (self.hit != (self.slot == target))
        return int(moved.argmax()) if moved.any() else None


def read_hits(paths: Sequence[str]) -> Hits:
    """The rows of several files.

    Raises:
        DataError: If there are no rows, a file lacks a column or has other values, a user is there
            twice or has two examples on one dataset, or the target's slot differs between arms.
    """
    parts = [
        _encode(path, table)
        for path in paths
        for table in storage.iter_tables(path, HITS, PARTITION_SIZE)
    ]
    where = " and ".join(paths)
    if not any(part.num_rows for part in parts):
        raise DataError(f"{where}: found no row; expected the hits of a study")
    hits = _combine(pa.concat_tables(parts).unify_dictionaries().combine_chunks())
    _check(where, hits)
    return hits


def _check(where: str, hits: Hits) -> None:
    """Refuse rows that can't be compared.

    Raises:
        DataError: If a user is there twice, has two examples, or the target's slot differs.
    """
    row = hits.find_doubled()
    if row is not None:
        cell = hits.cells[hits.cell[row]]
        raise DataError(
            f"{where}: {hits.users[hits.user[row]]} is there twice for dataset {cell.dataset}, arm "
            f"{cell.arm}, order {cell.order}, reading {cell.reading} and seed {hits.seed[row]}; "
            "expected each user once; leave the repeated rows out"
        )
    row = hits.find_mixed()
    if row is not None:
        raise DataError(
            f"{where}: {hits.users[hits.user[row]]} has two examples on the dataset "
            f"{hits.cells[hits.cell[row]].dataset}; expected one, as arms are compared on the same "
            "purchases; give hits of one split"
        )
    row = hits.find_moved()
    if row is not None:
        cell = hits.cells[hits.cell[row]]
        is_hit = "a hit" if hits.hit[row] else "a miss"
        raise DataError(
            f"{where}: {hits.users[hits.user[row]]} has {is_hit} at slot {hits.slot[row]} for arm "
            f"{cell.arm}, reading {cell.reading} and seed {hits.seed[row]} on the dataset "
            f"{cell.dataset}, other than in its first hit; expected the target at the same slot, "
            "as arms are compared among the same candidates; evaluate them on the same ones"
        )


def _encode(path: str, table: pa.Table) -> pa.Table:
    """Rows of hits with repeated texts as codes, and without what is not compared.

    Raises:
        DataError: If a slot is negative, or a hit has none.
    """
    lowest = pc.min(table["index"]).as_py()
    if lowest is not None and lowest < 0:
        raise DataError(
            f"{path}: column 'index' holds {lowest}; expected the chosen slot from 0, or null "
            "where an answer names no candidate"
        )
    slot = pc.fill_null(table["index"], -1)
    if pc.any(pc.and_(table["hit"], pc.less(slot, 0))).as_py():
        raise DataError(
            f"{path}: column 'hit' is true in rows whose index is null; expected the chosen slot "
            "there, as an answer that names no candidate is a miss"
        )
    columns = {name: table[name].dictionary_encode() for name in _CODED}
    return pa.table({**columns, "seed": table["seed"], "hit": table["hit"], "slot": slot})


def _combine(table: pa.Table) -> Hits:
    """The columns of ``_encode`` as one object."""
    coded = {name: table[name].combine_chunks() for name in _CODED}
    places = {name: numbers(column.indices).astype(np.int64) for name, column in coded.items()}
    key = np.zeros(table.num_rows, dtype=np.int64)
    for name in _CELL:
        key = key * len(coded[name].dictionary) + places[name]
    _, rows, found = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(rows)
    cells = (
        Cell(**{name: coded[name][row].as_py() for name in _CELL}) for row in rows[order].tolist()
    )
    users = coded[schema.USER_ID].dictionary
    by_name = numbers(pc.sort_indices(users)).astype(np.int64)
    return Hits(
        cells=tuple(cells),
        users=tuple(users.take(integers(by_name)).to_pylist()),
        cell=np.argsort(order)[found],
        user=np.argsort(by_name)[places[schema.USER_ID]],
        example=places["example_id"],
        seed=numbers(table["seed"]),
        hit=numbers(table["hit"]),
        slot=numbers(table["slot"]),
    )


def group_hits(hits: Hits) -> dict[Cell, ArmHits]:
    """The hits by cell, in order of first appearance.

    Raises:
        DataError: If the seeds of a cell have fewer than two users in common.
    """
    return {
        cell: _by_user(cell, hits, np.flatnonzero(hits.cell == n))
        for n, cell in enumerate(hits.cells)
    }


def _by_user(cell: Cell, hits: Hits, rows: NDArray[np.int64]) -> ArmHits:
    """The hits of some rows, which are of one cell."""
    seeds, column = np.unique(hits.seed[rows], return_inverse=True)
    user = hits.user[rows]
    shared = np.flatnonzero(np.bincount(user, minlength=len(hits.users)) == len(seeds))
    if len(shared) < 2:
        raise DataError(
            f"the hits of {', '.join(vars(cell).values())}: {len(shared)} users have all of the "
            f"seeds {', '.join(map(str, seeds))}; expected at least 2; give the missing rows"
        )
    place = np.full(len(hits.users), -1)
    place[shared] = np.arange(len(shared))
    kept = place[user] >= 0
    found = np.zeros((2, len(shared), len(seeds)), dtype=bool)
    for table, values in zip(found, (hits.hit, hits.valid), strict=True):
        table[place[user[kept]], column[kept]] = values[rows[kept]]
    users = tuple(hits.users[n] for n in shared.tolist())
    return ArmHits(users, tuple(seeds.tolist()), found[0].astype(np.int64), found[1])
