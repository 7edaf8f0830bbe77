"""The hits of a study: one row per arm, seed and user, in a file that any script can write.

``msrrec study`` writes such a file, and ``msrrec study --hits`` reads those of other scripts, so
that every study gets its verdict from the same code.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from msrrec import schema, storage
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

_KEY = ("dataset", "arm", "order", "reading", "seed", schema.USER_ID)


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


def read_hits(paths: Sequence[str]) -> pa.Table:
    """The rows of several files.

    Raises:
        DataError: If there are no rows, a file lacks a column, or a user is there twice.
    """
    table = pa.concat_tables([storage.read_table(path, HITS) for path in paths])
    where = " and ".join(paths)
    if not table.num_rows:
        raise DataError(f"{where}: found no row; expected the hits of a study")
    frame = pl.DataFrame(table)
    doubled = frame.filter(frame.select(_KEY).is_duplicated())
    if doubled.height:
        row = doubled.row(0, named=True)
        raise DataError(
            f"{where}: {row['user_id']} is there twice for dataset {row['dataset']}, arm "
            f"{row['arm']}, order {row['order']}, reading {row['reading']} and seed {row['seed']}; "
            "expected each user once"
        )
    return table


def group_hits(table: pa.Table) -> dict[Cell, ArmHits]:
    """The hits by cell, in order of first appearance.

    Raises:
        DataError: If the seeds of a cell have fewer than two users in common.
    """
    names = [key for key in _KEY if key not in ("seed", schema.USER_ID)]
    frame = pl.DataFrame(table)
    return {
        Cell(**dict(zip(names, map(str, key), strict=True))): _by_user(key, group)
        for key, group in frame.group_by(names, maintain_order=True)
    }


def _by_user(key: Sequence[object], frame: pl.DataFrame) -> ArmHits:
    seeds = tuple(sorted(frame["seed"].unique()))
    shared = (
        frame.with_columns(is_valid=pl.col("index").is_not_null())
        .filter(pl.col("seed").n_unique().over(schema.USER_ID) == len(seeds))
        .sort(schema.USER_ID, "seed")
    )
    users = tuple(shared[schema.USER_ID].unique(maintain_order=True))
    if len(users) < 2:
        raise DataError(
            f"the hits of {', '.join(map(str, key))}: {len(users)} users have all of the seeds "
            f"{', '.join(map(str, seeds))}; expected at least 2"
        )
    shape = (len(users), len(seeds))
    hits = shared["hit"].to_numpy().astype(np.int64).reshape(shape)
    return ArmHits(users, seeds, hits, shared["is_valid"].to_numpy().reshape(shape))
