"""Predictions in memory and on disk, and the conversion between them.

``SideOutput`` is what was generated, ``Prediction`` adds for whom. Columns on disk have the names
of these fields. A candidate is an index in memory and an item id on disk.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.partitions import PARTITION_SIZE, Partitions
from msrrec.errors import DataError
from msrrec.inference.fusion import SideOutput
from msrrec.schema import Example


@dataclass(frozen=True)
class Prediction:
    """What one system chose for one example, and its output.

    Attributes:
        output: The output; invalid and empty if the example was refused.
        seed: Seed of the sample.
        error: Why the example was refused, or None.
        sample: 0-based number of the sample of this side.
        candidate_scores: A baseline's scores of the candidates; None for generated outputs.
        is_resumed: Whether it comes from an earlier, interrupted run.
    """

    example_id: str
    output: SideOutput
    seed: int
    error: str | None = None
    sample: int = 0
    candidate_scores: tuple[float, ...] | None = None
    is_resumed: bool = field(default=False, compare=False)

    def item_id(self, candidates: Sequence[str]) -> str | None:
        """The id of the chosen candidate; None for an invalid output."""
        index = self.output.index
        return None if index is None else candidates[index]


def predictions_path(evaluation: str, variant: str) -> str:
    """Where an evaluation's folder keeps the predictions of one variant or side."""
    return storage.join(evaluation, "predictions", f"{variant}.parquet")


Row = dict[str, Any]
"""One line of a Parquet file."""

_OUTPUT = tuple(column.name for column in fields(SideOutput))
_LISTS = ("candidate_logprobs", "candidate_scores")
"""Columns that Arrow returns as lists."""


def to_row(prediction: Prediction) -> Row:
    """The fields of a prediction and its output in one row; the candidate is still an ``index``."""
    return {
        **{name: getattr(prediction, name) for name in ("example_id", "seed", "error", "sample")},
        **{name: getattr(prediction.output, name) for name in _OUTPUT},
        "candidate_scores": prediction.candidate_scores,
    }


def from_row(row: Mapping[str, Any], *, is_resumed: bool = False) -> Prediction:
    """The inverse of ``to_row``; missing columns get the defaults of their fields.

    Raises:
        KeyError: If a column without a default is missing.
    """
    values = {**row, **{name: tuple(row[name]) for name in _LISTS if row.get(name) is not None}}
    output = SideOutput(**{name: values[name] for name in _OUTPUT if name in values})
    given = ("error", "sample", "candidate_scores")
    more = {name: values[name] for name in given if name in values}
    return Prediction(row["example_id"], output, row["seed"], is_resumed=is_resumed, **more)


PredictionsWriter = Callable[[Sequence[Prediction], Mapping[str, Sequence[str]]], None]
"""Writes predictions as a row group; with item ids in the order that the system saw, by example
id."""


@contextmanager
def open_predictions(path: str) -> Iterator[PredictionsWriter]:
    """A Parquet file with the columns ``schema.PREDICTIONS``, one prediction per row.

    Args:
        path: File to write.
    """
    with storage.table_writer(path, schema.PREDICTIONS) as file:

        def write(
            predictions: Sequence[Prediction], candidates: Mapping[str, Sequence[str]]
        ) -> None:
            rows = [
                {**to_row(p), schema.ITEM_ID: p.item_id(candidates[p.example_id])}
                for p in predictions
            ]
            file.write_table(pa.Table.from_pylist(rows, schema=schema.PREDICTIONS))

        yield write


def write_predictions(
    path: str, predictions: Sequence[Prediction], candidates: Mapping[str, Sequence[str]]
) -> None:
    """Write a whole file, see ``open_predictions``."""
    with open_predictions(path) as write:
        write(predictions, candidates)


def iter_predictions(path: str, examples: Partitions) -> Iterator[list[Prediction]]:
    """The predictions for each partition of examples, in their order.

    Args:
        path: A file that ``write_predictions`` wrote.
        examples: The examples as the system saw them, with candidates in that order.

    Raises:
        DataError: If the file can't be read or holds other examples.
    """
    tables = storage.iter_tables(path, schema.PREDICTIONS, PARTITION_SIZE)
    rows = (row for table in tables for row in table.to_pylist())
    expected = f"one row for each of its {examples.num_examples}, in its order; evaluate again"
    for part in examples.read():
        found = list(islice(rows, len(part)))
        if [row["example_id"] for row in found] != [e.example_id for e in part]:
            raise DataError(f"{path}: holds other examples than the dataset; expected {expected}")
        yield [
            from_row({**row, "index": _place(row[schema.ITEM_ID], example, path)})
            for row, example in zip(found, part, strict=True)
        ]
    if next(rows, None) is not None:
        raise DataError(f"{path}: holds other examples than the dataset; expected {expected}")


def _place(item_id: str | None, example: Example, path: str) -> int | None:
    if item_id is None:
        return None
    if item_id not in example.candidates:
        raise DataError(
            f"{path}: chooses {item_id} for {example.example_id}, which is none of its candidates; "
            "expected the candidates of the dataset; evaluate again"
        )
    return example.candidates.index(item_id)


def read_choices(path: str) -> dict[str, str | None]:
    """The chosen item ids of a file that ``write_predictions`` wrote, by example id."""
    names = ("example_id", schema.ITEM_ID)
    wanted = pa.schema([schema.PREDICTIONS.field(name) for name in names])
    table = storage.read_table(path, wanted)
    columns: Iterable[list[Any]] = (table[name].to_pylist() for name in names)
    return dict(zip(*columns, strict=True))
