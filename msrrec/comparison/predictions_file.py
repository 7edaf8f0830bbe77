"""Choices of a system that runs elsewhere, read from a file and evaluated like any other system.

A file has a row per example: ``example_id``, and what was chosen as ``item_id``, as ``scores`` of
the candidates in their frozen order, or as ``text`` that the project's reader reads. Nothing in it
is dropped in silence: what could not be used is named in the audit of the evaluation.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa

from msrrec import storage
from msrrec.baselines.interface import choose
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.json_lines import as_text
from msrrec.data.partitions import Partitions
from msrrec.data.places import Places
from msrrec.errors import DataError
from msrrec.evaluation.audit import check
from msrrec.evaluation.examples import check_frozen, partition_examples
from msrrec.evaluation.results import Check, Details, FileFacts, ReadBy
from msrrec.evaluation.systems import identify_file
from msrrec.evaluation.write import EvaluatedPart, Evaluation, write_evaluation
from msrrec.fingerprint import hash_bytes
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction
from msrrec.reasoning.parsing import split_completion
from msrrec.reasoning.reading import read_strict
from msrrec.schema import Example, Split
from msrrec.stage import Summary
from msrrec.titles import show_titles

FILE_ENDINGS = (".parquet", ".csv", ".jsonl")
"""What the name of a file of predictions ends with."""

_SCORES = ("scores", "candidate_scores")
_CHOICES = ("item_id", *_SCORES, "text")
_AS_TEXT = cs.binary() | cs.decimal() | cs.date() | cs.datetime()
"""Columns of Parquet that JSON has no values for, such as ids that were written as bytes."""
_LINE = "\0line"
"""The column of a file of JSON lines, a name that no other file has."""


@dataclass(frozen=True)
class GivenRow:
    """One row of a file: its example, and what it says was chosen."""

    example_id: str
    item_id: str | None
    scores: Sequence[object] | None
    text: str


@dataclass(frozen=True)
class PredictionsFile:
    """A file of predictions.

    Attributes:
        path: Where it was read.
        digest: A hash of its content.
        read_by: The column that decides the choices.
        has_text: Whether there is a column ``text``.
        table: Its rows; of a file of JSON lines, one column of lines.
        ids: The ``example_id`` of each row.
    """

    path: str
    digest: str
    read_by: ReadBy
    has_text: bool
    table: pl.DataFrame
    ids: Places

    def find(self, examples: Sequence[Example]) -> list[GivenRow | None]:
        """The first row of each example; None for those without one."""
        places = self.ids.find_each([example.example_id for example in examples])
        rows = map(_given, _iter_rows(self.table[places[places >= 0].tolist()]))
        return [next(rows) if place >= 0 else None for place in places]


@dataclass(frozen=True)
class _Problems:
    """What in a file can't be used: ids of examples, and items that are no candidates."""

    missing: list[str]
    unknown: list[str]
    repeated: list[str]
    foreign: list[str]
    misshapen: list[str]


def read_predictions_file(path: str) -> PredictionsFile:
    """The rows of a file of predictions.

    Raises:
        DataError: If the file can't be read, has no rows, or lacks a column.
    """
    content = storage.read_bytes(path)
    digest = hash_bytes(content)
    table = _parse(path, content)
    del content
    ids, columns = _read_ids(path, table)
    choices = [name for name in _CHOICES if name in columns]
    if "example_id" not in columns or not choices:
        found = ", ".join(sorted(columns)) or "no rows"
        raise DataError(
            f"{path}: found {found}; expected a column example_id and one of item_id, scores or "
            "text; write one row per example"
        )
    if "" in ids:
        raise DataError(
            f"{path}: row {ids.index('') + 1} has no example_id; expected the id of an example as "
            "in test.parquet; fill it in or leave the row out"
        )
    read_by: ReadBy = "item_id" if "item_id" in choices else "text"
    if read_by == "text" and choices[0] in _SCORES:
        read_by = "scores"
    places = Places(pa.array(ids, pa.large_string()))
    return PredictionsFile(path, digest, read_by, "text" in choices, table, places)


def _parse(path: str, content: bytes) -> pl.DataFrame:
    """The rows of a file of any of the three kinds; JSON lines are left as they are."""
    try:
        if storage.base_name(path).lower().endswith(".parquet"):
            return pl.read_parquet(io.BytesIO(content)).with_columns(_AS_TEXT.cast(pl.String))
        if storage.base_name(path).lower().endswith(".csv"):
            return pl.read_csv(io.BytesIO(content), infer_schema=False)
        lines = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        return pl.DataFrame({_LINE: lines}, {_LINE: pl.String})
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    return DataError(
        f"{path}: can't be read ({reason}); expected a table of predictions; write it again"
    )


def _read_ids(path: str, table: pl.DataFrame) -> tuple[list[str], set[str]]:
    """The example id of each row, empty where it has none, and the names of all columns."""
    ids, columns = list[str](), set[str]()
    try:
        for row in _iter_rows(table):
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}: holds other lines than JSON objects; expected one per example"
                )
            columns.update(row)
            ids.append(as_text(row.get("example_id")) or "")
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return ids, columns


def _iter_rows(table: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a table, one by one."""
    if table.columns == [_LINE]:
        yield from map(json.loads, table[_LINE])
    else:
        yield from table.iter_rows(named=True)


def _given(row: Mapping[str, Any]) -> GivenRow:
    scores = next((row[name] for name in _SCORES if row.get(name) is not None), None)
    return GivenRow(
        as_text(row.get("example_id")) or "",
        as_text(row.get("item_id")) or None,
        _read_scores(scores),
        as_text(row.get("text")) or "",
    )


def _read_scores(value: Any) -> Sequence[object] | None:
    """A list, also from its JSON in a cell; anything else as a list that fits no candidates."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return value if value is None or isinstance(value, list) else [value]


def evaluate_file(
    dataset: Dataset, name: str, given: PredictionsFile, out: str, config: RunConfig
) -> Summary:
    """Evaluate the choices of a file on the frozen examples of a split.

    Args:
        dataset: The dataset that the file was made for.
        name: The system's name in tables.
        given: The file's rows.
        out: Folder of the evaluation.
        config: Section ``evaluate``.

    Raises:
        ConfigError: If other candidates or another order than the dataset's are asked for.
        DataError: If no row is of an evaluated example.
    """
    check_frozen(config, f"the choices in {given.path} were made among")
    examples = partition_examples(dataset, config.evaluate)
    found = _find_problems(dataset, examples, given, config.evaluate.split)
    parts = (
        EvaluatedPart(
            part,
            {"file": [_predict(dataset, e, row, given) for e, row in _pair(part, given)]},
        )
        for part in examples.read()
    )
    evaluation = Evaluation(
        identify_file(name),
        parts,
        lambda: Details(file=_describe(given, found)),
        is_written=given.has_text,
        checks=_check(given, found, config.evaluate.split),
    )
    return write_evaluation(evaluation, dataset, out, config)


def _pair(
    examples: Sequence[Example], given: PredictionsFile
) -> Iterator[tuple[Example, GivenRow | None]]:
    """Each example with its row."""
    return zip(examples, given.find(examples), strict=True)


def _find_problems(
    dataset: Dataset, examples: Partitions, given: PredictionsFile, split: Split
) -> _Problems:
    missing, foreign, misshapen = list[str](), list[str](), list[str]()
    for example, row in chain.from_iterable(_pair(part, given) for part in examples.read()):
        if row is None:
            missing.append(example.example_id)
            continue
        if not _is_candidate(row, example):
            foreign.append(f"{row.item_id} for {example.example_id}")
        if not _has_good_scores(row, example):
            misshapen.append(example.example_id)
    ids = pl.Series(given.ids.ids)
    if len(missing) == examples.num_examples:
        raise DataError(
            f"{given.path}: none of its example_ids, such as {ids[0]!r}, is an "
            f"evaluated one, such as {missing[0]!r}; expected ids of {dataset.path}/{split}.parquet"
        )
    return _Problems(
        missing=missing,
        unknown=_find_unknown(dataset, given, split),
        repeated=ids.filter(ids.is_duplicated()).unique(maintain_order=True).to_list(),
        foreign=foreign,
        misshapen=misshapen,
    )


def _find_unknown(dataset: Dataset, given: PredictionsFile, split: Split) -> list[str]:
    """The ids that the split lacks, in the order of the file."""
    is_known = np.zeros(len(given.ids), dtype=bool)
    for part in dataset.partitions(split).read():
        places = given.ids.find_each([example.example_id for example in part])
        is_known[places[places >= 0]] = True
    # Of a repeated id, the first row alone was found.
    ids = pl.Series(given.ids.ids)
    return list(ids.filter(ids.is_first_distinct() & pl.Series(~is_known)))


def _describe(given: PredictionsFile, found: _Problems) -> FileFacts:
    return FileFacts(
        name=storage.base_name(given.path),
        digest=given.digest,
        read_by=given.read_by,
        num_rows=len(given.ids),
        num_missing=len(found.missing),
        num_unknown=len(found.unknown),
        num_repeated=len(found.repeated),
        num_foreign=len(found.foreign),
        num_misshapen=len(found.misshapen),
    )


def _check(given: PredictionsFile, found: _Problems, split: Split) -> list[Check]:
    """One line of the audit for each kind of problem."""
    name = storage.base_name(given.path)
    by_scores = given.read_by == "scores"
    lost = "a miss" if by_scores else "not ranked"
    texts: tuple[tuple[str, str, list[str]], ...] = (
        ("Rows", "has a row for every evaluated example, else it is a miss", found.missing),
        ("Ids", f"holds ids of the {split} split alone, others are left out", found.unknown),
        ("Repeated", "has one row per example, else the first counts", found.repeated),
        ("Items", "chooses candidates of the example, else it is a miss", found.foreign),
        (
            "Scores",
            f"has one finite score per candidate, else the example is {lost}",
            found.misshapen,
        ),
    )
    read = f"choices are read by {given.read_by} from {name} ({len(given.ids):,} rows)"
    return [
        check("File", read),
        *(check(title, f"{name} {text}", wrong) for title, text, wrong in texts),
    ]


def _is_candidate(row: GivenRow, example: Example) -> bool:
    return row.item_id is None or row.item_id in example.candidates


def _has_good_scores(row: GivenRow, example: Example) -> bool:
    return row.scores is None or _finite_scores(row, example) is not None


def _finite_scores(row: GivenRow, example: Example) -> tuple[float, ...] | None:
    """The scores if there is one finite number per candidate."""
    values = [_finite(value) for value in row.scores or ()]
    found = tuple(value for value in values if value is not None)
    return found if len(found) == len(values) == len(example.candidates) else None


def _finite(value: object) -> float | None:
    """A finite number; None for anything else, such as an integer beyond any float."""
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _predict(
    dataset: Dataset, example: Example, row: GivenRow | None, given: PredictionsFile
) -> Prediction:
    """The choice of a row; invalid without a row, or where it names no candidate."""
    if row is None:
        return Prediction(example.example_id, SideOutput("file", "", "", None, None, 0), 0)
    scores = _finite_scores(row, example)
    index = None
    if given.read_by == "text":
        index = read_strict(row.text, show_titles(dataset.titles(example.candidates)))
    elif given.read_by == "scores":
        chosen = choose([example], [scores], 0)[0] if scores else None
        index = example.candidates.index(chosen) if chosen else None
    elif row.item_id in example.candidates:
        index = example.candidates.index(row.item_id)
    output = SideOutput("file", row.text, split_completion(row.text).reasoning, index, None, 0)
    return Prediction(example.example_id, output, 0, candidate_scores=scores)
