"""Small folders of recommendations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msrrec import storage
from msrrec.recommendations.rows import Offer, to_table
from tests.support.retrieval import SHOP


def make_offer(user_id: str, rank: int, item_id: str, **changes: Any) -> Offer:
    """An offer of the small shop; the first one has a reason and a history."""
    first = rank == 1
    fields: dict[str, Any] = {
        "user_id": user_id,
        "rank": rank,
        "item_id": item_id,
        "title": SHOP[item_id],
        "score": 1 / (rank + 1),
        "side": "user" if first else None,
        "reasoning": "It goes with the tent." if first else None,
        "perplexity": 1.5 if first else None,
        "model": "m1",
        "index": "x1",
        "history": ("tent",) if first else None,
    }
    return Offer(**fields | changes)


def write_offers(folder: Path, *parts: Sequence[Offer]) -> str:
    """A finished folder with a partition for each of some lists of offers."""
    for n, part in enumerate(parts):
        storage.write_table(f"{folder}/part-{n:05d}.parquet", to_table(part))
    storage.write_json(f"{folder}/{storage.RECORD}", {})
    return str(folder)
