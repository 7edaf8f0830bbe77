"""The rows of a folder of recommendations: one per user and rank."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.errors import DataError
from msrrec.inference.fusion import Recommendation
from msrrec.inference.ranking import rank_candidates
from msrrec.schema import Example, Item

RECOMMENDATIONS = pa.schema(
    [
        pa.field(schema.USER_ID, pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field(schema.ITEM_ID, pa.string(), nullable=False),
        pa.field(schema.TITLE, pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("side", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("perplexity", pa.float64()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("index", pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.string())),
        pa.field("confidence", pa.float64()),
    ]
)
"""``part-*.parquet``. ``rank`` begins at 1. ``score`` is as of ``rank_candidates``. ``side``,
``reasoning`` and ``perplexity`` are those of the chosen output, on the row that it recommends;
null on the others. ``model`` and ``index`` are the versions of both. ``history`` holds the ids of
the latest purchases, oldest first, on the row of rank 1; null on the others. ``confidence``
likewise, if a temperature is known."""


@dataclass(frozen=True)
class Offer:
    """One row, see ``RECOMMENDATIONS``."""

    user_id: str
    rank: int
    item_id: str
    title: str
    score: float
    side: str | None
    reasoning: str | None
    perplexity: float | None
    model: str
    index: str
    history: tuple[str, ...] | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Versions:
    """What recommended: versions of the model and of the index."""

    model: str
    index: str


def make_offers(
    example: Example,
    found: Recommendation,
    items: Mapping[str, Item],
    top_k: int,
    versions: Versions,
    sureness: float | None = None,
) -> list[Offer]:
    """The best ``top_k`` items of a user; ``sureness`` is the confidence of the first."""
    offers = []
    for rank, one in enumerate(rank_candidates(found)[:top_k], 1):
        item = items[example.candidates[one.index]]
        chosen = found.chosen if one.index == found.index else None
        offers.append(
            Offer(
                example.user_id,
                rank,
                item.item_id,
                item.title,
                one.score,
                chosen.side if chosen else None,
                chosen.reasoning if chosen else None,
                chosen.perplexity if chosen else None,
                versions.model,
                versions.index,
                example.history if rank == 1 else None,
                sureness if rank == 1 else None,
            )
        )
    return offers


def to_table(offers: Sequence[Offer]) -> pa.Table:
    """Rows of ``RECOMMENDATIONS``."""
    return pa.Table.from_pylist([asdict(offer) for offer in offers], schema=RECOMMENDATIONS)


def read_recommendations(folder: str) -> Iterator[pa.Table]:
    """The rows of a folder of recommendations, a partition at a time.

    Raises:
        DataError: If it is not one.
    """
    names = [name for name in storage.list_files(folder) if name.startswith("part-")]
    if not names or not storage.exists(storage.join(folder, storage.RECORD)):
        raise DataError(
            f"{folder}: holds no finished recommendations; expected a folder made by "
            "`msrrec recommend --out`"
        )
    for name in names:
        yield storage.read_table(storage.join(folder, name), RECOMMENDATIONS)


def read_offers(table: pa.Table) -> list[Offer]:
    """The rows of a table as offers."""
    rows: list[dict[str, Any]] = table.to_pylist()
    histories = (row.pop("history") for row in rows)
    return [
        Offer(**row, history=history and tuple(history))
        for row, history in zip(rows, histories, strict=True)
    ]
