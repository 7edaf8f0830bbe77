"""Batch inference through Ray Data: one dataset and one engine start for all sides.

Only row numbers pass through the pipeline; workers read titles in place from two Arrow tables. With
a journal, outputs are saved batch by batch, so a killed run can be resumed. The stage is a plain
class that Ray Data runs in actors, and Ray is imported only where it is used.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from msrrec import schema
from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.placement import engine_resources
from msrrec.errors import DataError, EngineError, MsrRecError, last_line
from msrrec.inference.codec import request_seed
from msrrec.inference.fusion import SideOutput
from msrrec.inference.journal import OutputJournal
from msrrec.inference.predictions import Prediction, from_row, to_row
from msrrec.inference.recommender import Recommender
from msrrec.log import Progress, setup
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

BuildRecommender = Callable[[ModelSource, InferenceConfig], Recommender]

_MAX_ACTOR_RESTARTS = 1
"""Restarts of each engine actor: one, to replace a lost machine. A batch that crashes its engine
twice ends the run."""


@dataclass(frozen=True)
class QueryTable:
    """The queries of a run in two Arrow tables, which workers read in place.

    Attributes:
        rows: Columns ``example_id``, ``history`` and ``candidates``; items are indices into
            ``titles``.
        titles: Titles of all items.
    """

    domain: str
    rows: pa.Table
    titles: pa.Array

    @classmethod
    def collect(cls, examples: Sequence[Example], dataset: Dataset) -> "QueryTable":
        """The queries of some examples."""
        places = {item_id: n for n, item_id in enumerate(dataset.items)}
        items = pa.list_(pa.int32())
        rows = {
            "example_id": pa.array([example.example_id for example in examples], pa.string()),
            "history": pa.array([[places[i] for i in e.history] for e in examples], items),
            "candidates": pa.array([[places[i] for i in e.candidates] for e in examples], items),
        }
        titles = pa.array((item.title for item in dataset.items.values()), pa.large_string())
        return cls(dataset.domain, pa.table(rows), titles)

    def take(self, numbers: Sequence[int]) -> list[Query]:
        """The queries with these row numbers."""
        return [
            Query(
                row["example_id"],
                self.domain,
                self._named(row["history"]),
                self._named(row["candidates"]),
            )
            for row in self.rows.take(list(numbers)).to_pylist()
        ]

    def _named(self, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.titles.take(places).to_pylist())


_Key = tuple[str, int, str]
"""Example, sample and side."""


class RecommendStage:
    """A Ray Data stage from row numbers of queries to one row per sample and side.

    An engine that can't start or fails is reported in a row, as Ray would wrap an exception in its
    own and print both.
    """

    def __init__(
        self,
        source: ModelSource,
        config: InferenceConfig,
        sides: Sequence[Side],
        queries: "QueryTable | ray.ObjectRef[QueryTable]",
        build: BuildRecommender = Recommender.from_source,
        route_threshold: float | None = None,
    ) -> None:
        """Start the engine, once per actor."""
        setup()
        self._sides, self._seed = tuple(sides), config.seed
        self._num_samples = config.num_samples
        self._queries, self._threshold = _fetch(queries), route_threshold
        self._recommender: Recommender | None = None
        self._failure = ""
        try:
            self._recommender = build(source, config)
        except MsrRecError as error:
            self._failure = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The outputs of a batch; a refused example becomes rows with the reason."""
        if self._recommender is None:
            return _failure(self._failure)
        samples = [
            (replace(query, key=query.key + _suffix(n)), n)
            for query in self._queries.take(batch["id"].to_pylist())
            for n in range(self._num_samples)
        ]
        try:
            results = self._generate(self._recommender, [query for query, _ in samples])
        except EngineError as error:
            return _failure(str(error))
        predictions = [
            _prediction(
                query.key.removesuffix(_suffix(sample)),
                side,
                output,
                request_seed(self._seed, query.key, side),
                sample,
            )
            for (query, sample), result in zip(samples, results, strict=True)
            for side, output in result.items()
        ]
        return pa.Table.from_pylist([to_row(p) for p in predictions], schema=schema.OUTPUTS)

    def _generate(
        self, recommender: Recommender, queries: Sequence[Query]
    ) -> list[dict[Side, SideOutput | DataError]]:
        if self._threshold is None:
            return recommender.generate_each(queries, self._sides)
        return recommender.generate_routed(queries, self._threshold)


def _suffix(sample: int) -> str:
    """Suffix of the key of a further sample, so that its seed differs."""
    return f"#{sample}" if sample else ""


def _fetch(queries: "QueryTable | ray.ObjectRef[QueryTable]") -> QueryTable:
    """The queries, fetched from Ray's object store if they are a reference."""
    if isinstance(queries, QueryTable):
        return queries
    import ray

    found: QueryTable = ray.get(queries)
    return found


def open_journal(
    folder: str, identity: Mapping[str, object], config: InferenceConfig
) -> OutputJournal:
    """A journal for ``predict``.

    Args:
        folder: Folder of the journal.
        identity: What decides the outputs besides the settings: weights, examples, sides.
        config: Settings of inference.
    """
    settings = config.model_dump(
        mode="json", exclude={"batch_size", "num_engines", "gpus_per_engine"}
    )
    return OutputJournal(folder, {**identity, "inference": settings}, schema.OUTPUTS)


def predict(
    examples: Sequence[Example],
    dataset: Dataset,
    source: ModelSource,
    sides: Sequence[Side],
    config: InferenceConfig,
    build: BuildRecommender = Recommender.from_source,
    journal: OutputJournal | None = None,
    route_threshold: float | None = None,
) -> list[Prediction]:
    """Every side of every example, ordered by example, then sample, then side.

    Each sample has its own seed, so the result does not depend on batches, engines or their order.

    Args:
        examples: The examples to generate for, with different ids.
        dataset: The dataset with their titles.
        source: The weights.
        sides: The sides to generate, in one engine start.
        config: The section ``inference`` of the settings.
        build: Makes the recommender of each actor.
        journal: Stores finished outputs; examples whose outputs it already holds are skipped.
        route_threshold: Where the direct answer is surer than this, only it is generated, see
            ``Recommender.generate_routed``; None: every side of every example.

    Raises:
        ConfigError: If the cluster is too small for ``num_engines``.
        EngineError: If an engine can't start or fails.
    """
    found: dict[_Key, Prediction] = {}
    for table in journal.read() if journal else ():
        found |= _predictions(table, is_resumed=True)
    finished = {example_id for example_id, _, _ in found}
    pending = [example for example in examples if example.example_id not in finished]
    with Progress("recommend", len(examples), "users") as progress:
        progress.advance(len(examples) - len(pending))
        for table in _generate(pending, dataset, source, sides, config, build, route_threshold):
            if journal:
                journal.append(table)
            found |= _predictions(table)
            progress.advance(len(table["example_id"].unique()))
    keys = (
        (example.example_id, sample, side)
        for example in examples
        for sample in range(config.num_samples)
        for side in sides
    )
    return [found[key] for key in keys if route_threshold is None or key in found]


def _generate(
    examples: Sequence[Example],
    dataset: Dataset,
    source: ModelSource,
    sides: Sequence[Side],
    config: InferenceConfig,
    build: BuildRecommender,
    route_threshold: float | None,
) -> Iterator[pa.Table]:
    """Tables of outputs, each with all outputs of its examples, as they are finished."""
    if not examples:
        return
    import ray

    queries = ray.put(QueryTable.collect(examples, dataset))
    arguments = (make_absolute(source), config, tuple(sides), queries, build, route_threshold)
    yield from _batches(_pipeline(len(examples), arguments, config), source)


def num_batches(num_examples: int, config: InferenceConfig) -> int:
    """Number of batches of at most ``batch_size`` examples; at least one per engine."""
    least = min(config.num_engines, num_examples)
    return max(math.ceil(num_examples / config.batch_size), least)


def _pipeline(
    num_examples: int, arguments: tuple[Any, ...], config: InferenceConfig
) -> "ray.data.Dataset":
    """The dataset of outputs, not yet executed."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    batches = num_batches(num_examples, config)
    num_engines = min(config.num_engines, batches)
    with warnings.catch_warnings():
        # This release of Ray has no named parameter for restarts.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.range(num_examples, override_num_blocks=batches).map_batches(
            RecommendStage,
            fn_constructor_args=arguments,
            batch_size=None,  # each block is one batch
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=num_engines),
            ray_remote_args_fn=_restarts,
            **engine_resources(config, num_engines, "inference.num_engines", arguments[0]),
        )


def make_absolute(source: ModelSource) -> ModelSource:
    """The weights with absolute folders, so that every worker finds them; hub names unchanged."""
    path, adapter = (
        str(Path(name).expanduser().absolute())
        if name and Path(name).expanduser().exists()
        else name
        for name in (source.path, source.adapter)
    )
    return replace(source, path=path or source.path, adapter=adapter)


def _restarts() -> dict[str, int]:
    return {"max_restarts": _MAX_ACTOR_RESTARTS, "max_task_retries": _MAX_ACTOR_RESTARTS}


def _batches(outputs: "ray.data.Dataset", source: ModelSource) -> Iterator[pa.Table]:
    """Tables of outputs as they are finished; Ray's errors become this project's."""
    from ray.data.exceptions import SystemException
    from ray.exceptions import RayError

    try:
        for table in outputs.iter_batches(batch_size=None, batch_format="pyarrow"):
            failures = table["failure"].drop_null()
            if len(failures):
                raise EngineError(str(failures[0]))
            yield table
    except (RayError, SystemException) as error:
        cause = getattr(error, "cause", None) or error.__cause__ or error
        raise EngineError(f"{source.name}: batch inference failed ({last_line(cause)})") from error


def _failure(reason: str) -> pa.Table:
    row = to_row(_prediction("", "direct", DataError(reason), 0, 0)) | {"failure": reason}
    return pa.Table.from_pylist([row], schema=schema.OUTPUTS)


def _prediction(
    example_id: str, side: Side, output: SideOutput | DataError, seed: int, sample: int
) -> Prediction:
    if isinstance(output, DataError):
        empty = SideOutput(side, "", "", None, None, 0)
        return Prediction(example_id, empty, seed, str(output), sample)
    return Prediction(example_id, output, seed, None, sample)


def _predictions(table: pa.Table, is_resumed: bool = False) -> dict[_Key, Prediction]:
    """The rows of a table of outputs, by example, sample and side."""
    found = (from_row(row, is_resumed=is_resumed) for row in table.to_pylist())
    return {(p.example_id, p.sample, p.output.side): p for p in found}
