"""Hits of studies, written by hand or drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from msrrec import storage
from msrrec.evaluation.hits import HITS


def rows_of(
    arm: str,
    by_seed: Mapping[int, str],
    *,
    dataset: str = "w",
    order: str = "history_first",
    reading: str = "direct",
) -> list[dict[str, object]]:
    """The rows of one arm; per seed a letter a user: h for a hit, m for a miss, i for invalid."""
    return [
        {
            "dataset": dataset,
            "arm": arm,
            "order": order,
            "seed": seed,
            "reading": reading,
            "example_id": f"e{n}",
            "user_id": f"u{n:04d}",
            "index": None if letter == "i" else "hm".index(letter),
            "hit": letter == "h",
        }
        for seed, letters in by_seed.items()
        for n, letter in enumerate(letters)
    ]


def write_hits(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    """A file of hits; its path."""
    storage.write_table(str(path), pa.Table.from_pylist([dict(r) for r in rows], schema=HITS))
    return str(path)
