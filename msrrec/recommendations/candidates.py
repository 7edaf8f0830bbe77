"""Candidates for every user: what an index finds for all of a user's purchases.

Of many users Ray Data reads the purchases and searches in actors that hold the index, in order; a
few are searched for here. What is found is written in partitions, so memory does not grow with the
number of users.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from msrrec import log, schema, storage
from msrrec.data.dataset import USERS_FILE, Dataset
from msrrec.data.partitions import PARTITION_SIZE, Partitions
from msrrec.errors import DataError
from msrrec.log import Progress
from msrrec.retrieval.folder import load_index
from msrrec.schema import Example

if TYPE_CHECKING:
    import ray.data

BATCH = 256
"""Users that are searched for at once."""
MANY_USERS = 20_000
"""Datasets with more users are searched through Ray Data, whose start takes some ten seconds."""

CANDIDATES = pa.schema(
    [
        pa.field(schema.USER_ID, pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
        pa.field("found_by", pa.list_(pa.string()), nullable=False),
    ]
)
"""A user, the latest purchases that a prompt shows, the items found, and for each of them the
retrievers that found it with its rank, such as ``words 3, transitions 1``."""


@dataclass(frozen=True)
class CandidateSearch:
    """What is searched for each user.

    Attributes:
        identity: A hash of dataset, index and the other attributes: equal ones find the same.
        index: Folder of the index.
        count: Number of candidates.
        length: Number of the latest purchases that a prompt shows.
        users: Ids of the users; None for all.
    """

    identity: str
    index: str
    count: int
    length: int
    users: frozenset[str] | None = None


class Searcher:
    """Finds candidates for rows of users; Ray Data runs it as an actor that holds the index."""

    def __init__(self, wanted: CandidateSearch) -> None:
        log.setup()
        self._wanted, self._index = wanted, load_index(wanted.index)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of ``USERS`` become rows of ``CANDIDATES``."""
        wanted = self._wanted
        if wanted.users is not None:
            listed = pa.array(sorted(wanted.users), pa.string())
            rows = rows.filter(pc.is_in(rows[schema.USER_ID], listed))
        bought = rows["items"].to_pylist()
        found = self._index.search(bought, wanted.count) if bought else []
        return pa.table(
            [
                rows[schema.USER_ID].to_pylist(),
                [items[-wanted.length :] for items in bought],
                [[one.item_id for one in items] for items in found],
                [[_reason(one.ranks) for one in items] for items in found],
            ],
            schema=CANDIDATES,
        )


def _reason(ranks: Any) -> str:
    """The retrievers that found an item, the best rank first."""
    return ", ".join(f"{name} {rank}" for name, rank in sorted(ranks.items(), key=lambda p: p[1]))


def find_candidates(dataset: Dataset, wanted: CandidateSearch, folder: str) -> Partitions:
    """The users as examples with candidates and without a target, kept in a folder of partitions.

    Example ids are user ids. A finished folder of the same identity is read and not made again.

    Raises:
        DataError: If a wanted user is unknown, there are no users, or the index can't be read.
    """
    record = storage.join(folder, storage.MANIFEST)
    if not storage.exists(record) or storage.read_object(record)["identity"] != wanted.identity:
        storage.delete_folder(folder)
        _write(dataset, wanted, folder, record)
    parts = storage.read_object(record)["parts"]

    def read() -> Iterator[Sequence[Example]]:
        for name in parts:
            table = storage.read_table(storage.join(folder, name), CANDIDATES)
            yield [_example(row) for row in table.to_pylist()]

    return Partitions(sum(parts.values()), read)


def read_users(path: str) -> list[str]:
    """The ids of a file that has one on each line.

    Raises:
        DataError: If it can't be read or lists none.
    """
    try:
        lines = storage.read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; expected a user id on each line") from error
    users = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not users:
        raise DataError(f"{path}: lists no users; expected an id on each line")
    return users


def _write(dataset: Dataset, wanted: CandidateSearch, folder: str, record: str) -> None:
    parts: dict[str, int] = {}
    left = set(wanted.users or ())
    total = len(wanted.users) if wanted.users is not None else _count_users(dataset)
    with Progress("retrieve", total, "users") as progress:
        for n, table in enumerate(_search(dataset, wanted)):
            name = f"part-{n:05d}.parquet"
            storage.write_bytes(storage.join(folder, name), storage.table_bytes(table))
            parts[name] = table.num_rows
            left.difference_update(table[schema.USER_ID].to_pylist())
            progress.advance(table.num_rows)
    if left:
        raise DataError(
            f"{dataset.path}: has no user {min(left)!r} ({len(left)} of the {total} wanted are "
            "missing); expected ids of its users"
        )
    if not parts:
        raise DataError(f"{dataset.path}: has no users; expected at least one")
    storage.write_json(record, {"identity": wanted.identity, "parts": parts})


def _count_users(dataset: Dataset) -> int:
    return storage.count_rows(storage.join(dataset.path, USERS_FILE))


def _search(dataset: Dataset, wanted: CandidateSearch) -> Iterator[pa.Table]:
    """Tables of at most ``PARTITION_SIZE`` users, in the order of the dataset."""
    is_large = _count_users(dataset) > MANY_USERS
    for table in (_search_on_ray if is_large else _search_here)(dataset, wanted):
        if table.num_rows:
            yield table


def _search_here(dataset: Dataset, wanted: CandidateSearch) -> Iterator[pa.Table]:
    search = Searcher(wanted)
    path = storage.join(dataset.path, USERS_FILE)
    for table in storage.iter_tables(path, schema.USERS, PARTITION_SIZE):
        yield search(table)


def _search_on_ray(dataset: Dataset, wanted: CandidateSearch) -> Iterator[pa.Table]:
    import ray.data  # seconds to import

    users = _read_users(dataset)
    users.context.execution_options.preserve_order = True
    users.context.enable_progress_bars = False
    found = users.map_batches(
        Searcher,
        fn_constructor_args=(wanted,),
        batch_format="pyarrow",
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_num_actors()),
    )
    for batch in found.iter_batches(batch_size=PARTITION_SIZE, batch_format="pyarrow"):
        yield batch.select(CANDIDATES.names).cast(CANDIDATES)


def _read_users(dataset: Dataset) -> "ray.data.Dataset":
    import ray.data

    filesystem, inner = storage.resolve(storage.join(dataset.path, USERS_FILE))
    users = ray.data.read_parquet(inner, filesystem=filesystem)
    return users.select_columns(list(schema.USERS.names))


def _num_actors() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)


def _example(row: dict[str, Any]) -> Example:
    user_id = row[schema.USER_ID]
    return Example(user_id, user_id, tuple(row["history"]), "", tuple(row["candidates"]))


def read_reasons(folder: str, users: Collection[str]) -> dict[str, dict[str, str]]:
    """Why each candidate of some users was proposed, by user and item id."""
    found: dict[str, dict[str, str]] = {}
    for name in storage.read_object(storage.join(folder, storage.MANIFEST))["parts"]:
        if len(found) == len(users):
            break
        table = storage.read_table(storage.join(folder, name), CANDIDATES)
        some = table.filter(pc.is_in(table[schema.USER_ID], pa.array(list(users), pa.string())))
        for row in some.to_pylist():
            pairs = zip(row["candidates"], row["found_by"], strict=True)
            found[row[schema.USER_ID]] = dict(pairs)
    return found
