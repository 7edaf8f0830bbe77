"""Batch inference on Ray actors: one engine start for all examples and sides.

Lengths of outputs differ much, so an engine is never given one batch and then the next: it works on
a constant number of examples, and begins another as soon as one is complete. What is complete is
journaled in groups as it arrives, in any order, so a killed run can be resumed and a lost engine
costs only what it had not sent. A second pass reads the journal back in the order of
the examples, a partition at a time. One pass that yields partitions as they are complete would hold
back what arrives early, without a bound. Ray is imported only where it is used.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from msrrec import schema
from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.engines.placement import engine_resources
from msrrec.errors import DataError, EngineError, MsrRecError
from msrrec.inference.codec import request_seed
from msrrec.inference.engine_pool import MOST_BATCHES, Deadly, EnginePool
from msrrec.inference.fusion import SideOutput
from msrrec.inference.journal import OutputJournal
from msrrec.inference.predictions import Prediction, from_row, to_row
from msrrec.inference.recommender import Recommender
from msrrec.inference.work import Batch, Work
from msrrec.log import Progress, setup
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

logger = logging.getLogger(__name__)

BuildRecommender = Callable[[ModelSource, InferenceConfig], Recommender]


@dataclass(frozen=True)
class TitleTable:
    """The titles of all items, which workers read in place.

    Attributes:
        domain: What prompts call the shop.
        titles: Titles in the order of the catalogue.
    """

    domain: str
    titles: pa.Array

    @classmethod
    def collect(cls, dataset: Dataset) -> "TitleTable":
        """The titles of a dataset."""
        titles = pa.array((item.title for item in dataset.items.values()), pa.large_string())
        return cls(dataset.domain, titles)

    def read(self, rows: pa.Table) -> list[Query]:
        """The queries of rows that a ``QueryEncoder`` made."""
        return [
            Query(
                row["example_id"],
                self.domain,
                self._named(row["history"]),
                self._named(row["candidates"]),
            )
            for row in rows.to_pylist()
        ]

    def _named(self, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.titles.take(places).to_pylist())


class QueryEncoder:
    """Makes examples into rows that name items by their place in the catalogue."""

    def __init__(self, dataset: Dataset) -> None:
        self._places = {item_id: n for n, item_id in enumerate(dataset.items)}

    def encode(self, examples: Sequence[Example]) -> pa.Table:
        """Columns ``example_id``, ``history`` and ``candidates``."""
        items, places = pa.list_(pa.int32()), self._places
        rows = {
            "example_id": pa.array([example.example_id for example in examples], pa.string()),
            "history": pa.array([[places[i] for i in e.history] for e in examples], items),
            "candidates": pa.array([[places[i] for i in e.candidates] for e in examples], items),
        }
        return pa.table(rows)


_Key = tuple[str, int, str]
"""Example, sample and side."""

_IDS = pa.schema([schema.OUTPUTS.field("example_id")])

Answered = tuple[Sequence[Example], list[Prediction]]
"""The examples of a partition, and their predictions."""


_GROUPS_PER_BATCH = 4
"""Groups in which the outputs of a batch are sent; each becomes a file of the journal."""

MOST_AT_ONCE = 1024
"""Examples that an engine works on at once, at most: each has a thread that waits for it."""


class RecommendStage:
    """An engine that turns rows of queries into one row per sample and side.

    It is a plain class that Ray runs as an actor. An engine that can't start or fails is reported
    in a row, as Ray would wrap an exception in its own and print both.
    """

    def __init__(
        self,
        source: ModelSource,
        config: InferenceConfig,
        sides: Sequence[Side],
        titles: TitleTable,
        build: BuildRecommender = Recommender.from_source,
        route_threshold: float | None = None,
    ) -> None:
        """Start the engine, once per actor."""
        setup()
        self._sides, self._config = tuple(sides), config
        self._titles, self._threshold = titles, route_threshold
        self._threads = ThreadPoolExecutor(min(config.batch_size, MOST_AT_ONCE))
        self._recommender: Recommender | None = None
        self._failure = ""
        try:
            self._recommender = build(source, config)
        except MsrRecError as error:
            self._failure = str(error)

    def locate(self) -> str:
        """The id of the node that this runs on; Ray answers once the engine has started."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def generate(self, rows: pa.Table) -> Iterator[pa.Table]:
        """The outputs of a batch in groups, as they are complete.

        An example's rows are in one group; a refused example becomes rows with the reason. Several
        calls at once share the engine; an earlier one's examples begin first.
        """
        if self._recommender is None:
            yield _failure(self._failure)
            return
        answer, queries = self._answer, self._titles.read(rows)
        waiting = [self._threads.submit(answer, self._recommender, query) for query in queries]
        try:
            for group in _groups(waiting):
                yield _table(group)
        except EngineError as error:
            yield _failure(str(error))
        finally:
            for one in waiting:
                one.cancel()

    def _answer(self, recommender: Recommender, query: Query) -> list[Prediction]:
        """Every sample and side of a query."""
        samples = [
            replace(query, key=query.key + _suffix(n)) for n in range(self._config.num_samples)
        ]
        return [
            _prediction(
                query.key, side, output, request_seed(self._config.seed, sample.key, side), n
            )
            for n, (sample, result) in enumerate(
                zip(samples, self._generate(recommender, samples), strict=True)
            )
            for side, output in result.items()
        ]

    def _generate(
        self, recommender: Recommender, queries: Sequence[Query]
    ) -> list[dict[Side, SideOutput | DataError]]:
        if self._threshold is None:
            return recommender.generate_each(queries, self._sides)
        return recommender.generate_routed(queries, self._threshold)


def _groups(waiting: Sequence[Future[list[Prediction]]]) -> Iterator[list[Prediction]]:
    """The predictions of all examples in a few groups, as they are complete."""
    size = math.ceil(len(waiting) / _GROUPS_PER_BATCH)
    complete = as_completed(waiting)
    while some := [one.result() for one in islice(complete, size)]:
        yield list(chain.from_iterable(some))


def _suffix(sample: int) -> str:
    """Suffix of the key of a further sample, so that its seed differs."""
    return f"#{sample}" if sample else ""


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


@dataclass(frozen=True)
class _Request:
    """What a run generates, see ``predict``."""

    dataset: Dataset
    source: ModelSource
    sides: tuple[Side, ...]
    config: InferenceConfig
    build: BuildRecommender
    route_threshold: float | None

    @property
    def keys(self) -> list[tuple[int, Side]]:
        """Sample and side of every output that an example may have, in order."""
        return [(n, side) for n in range(self.config.num_samples) for side in self.sides]


def predict(
    examples: Partitions,
    dataset: Dataset,
    source: ModelSource,
    sides: Sequence[Side],
    config: InferenceConfig,
    journal: OutputJournal,
    build: BuildRecommender = Recommender.from_source,
    route_threshold: float | None = None,
) -> Iterator[Answered]:
    """Every side of every example, in partitions; ordered by example, then sample, then side.

    All outputs are generated and journaled before this returns, in one start of the engines. The
    iterator reads them back, a partition at a time, so memory does not grow with the number of
    examples. Each sample has its own seed, so the result does not depend on batches, engines or
    their order. Lost engines are replaced; an example that kills its engines gets an error.

    Args:
        examples: The examples to generate for, with different ids.
        dataset: The dataset with their titles.
        source: The weights.
        sides: The sides to generate, in one engine start.
        config: The section ``inference`` of the settings.
        journal: Stores finished outputs; examples whose outputs it already holds are skipped.
        build: Makes the recommender of each engine.
        route_threshold: Where the direct answer is surer than this, only it is generated, see
            ``Recommender.generate_routed``; None: every side of every example.

    Raises:
        ConfigError: If the cluster is too small for ``num_engines``.
        EngineError: If an engine can't start or fails, or engines die without anything new.
    """
    request = _Request(dataset, source, tuple(sides), config, build, route_threshold)
    with Progress("recommend", examples.num_examples, "users") as progress:
        size = batch_length(examples.num_examples, config)
        pending = _pending(examples, journal, size, progress)
        first = next(pending, None)
        if first is not None:
            _generate(request, chain([first], pending), journal, progress)
    return _read_back(request, examples, journal)


def batch_length(num_examples: int, config: InferenceConfig) -> int:
    """Examples per batch: at most ``batch_size``, and so few that every engine gets a batch."""
    return min(config.batch_size, math.ceil(num_examples / config.num_engines))


def _pending(
    examples: Partitions, journal: OutputJournal, size: int, progress: Progress
) -> Iterator[Batch]:
    """Batches of the examples that an earlier run did not finish, read as they are needed."""
    for begin, part in _placed(examples):
        tables = journal.read_earlier(range(begin, begin + len(part)), _IDS)
        finished = {i for table in tables for i in table["example_id"].to_pylist()}
        waiting = [(n, e) for n, e in enumerate(part, begin) if e.example_id not in finished]
        progress.advance(len(part) - len(waiting))
        for start in range(0, len(waiting), size):
            some = waiting[start : start + size]
            yield Batch(some[0][0], some[-1][0] + 1, tuple(example for _, example in some))


def _placed(examples: Partitions) -> Iterator[tuple[int, Sequence[Example]]]:
    """Each partition with the 0-based place of its first example."""
    begin = 0
    for part in examples.read():
        yield begin, part
        begin += len(part)


def _generate(
    request: _Request, batches: Iterator[Batch], journal: OutputJournal, progress: Progress
) -> None:
    """Generate for all batches and journal the outputs as they arrive."""
    config, num_deadly = request.config, 0
    start = _prepare_engines(request)
    work = Work(batches, config.num_engines, has_answers=journal.has_earlier)
    encoder = QueryEncoder(request.dataset)
    pool = EnginePool(
        start,
        lambda batch: encoder.encode(batch.examples),
        work,
        config,
        request.source.name,
    )
    for found in pool.run():
        batch = found.batch
        if isinstance(found, Deadly):
            num_deadly += 1
            num_examples, table = 1, _given_up(request, found)
        else:
            num_examples, table = found.num_examples, found.table
        journal.append(table, range(batch.begin, batch.end))
        progress.advance(num_examples)
    if num_deadly:
        logger.warning("recommend: %d examples killed their engines and got no answer", num_deadly)


def _given_up(request: _Request, deadly: Deadly) -> pa.Table:
    """The outputs of an example that kills its engines: errors."""
    (example,) = deadly.batch.examples
    sides = request.sides if request.route_threshold is None else ("direct",)
    return _table(
        _prediction(
            example.example_id,
            side,
            DataError(deadly.reason),
            request_seed(request.config.seed, example.example_id + _suffix(sample), side),
            sample,
        )
        for sample in range(request.config.num_samples)
        for side in sides
    )


def _prepare_engines(request: _Request) -> Callable[[], Any]:
    """What starts an engine.

    Ray neither restarts an actor nor repeats its batch: ``Work`` decides.
    """
    import ray

    config, source = request.config, make_absolute(request.source)
    resources = engine_resources(config, config.num_engines, "inference.num_engines", source)
    engine_class = ray.remote(RecommendStage).options(
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=MOST_BATCHES,
        scheduling_strategy="DEFAULT",  # not in the room that a trial of Ray Tune has for itself
        **resources,
    )
    arguments = (
        source,
        config,
        request.sides,
        ray.put(TitleTable.collect(request.dataset)),
        request.build,
        request.route_threshold,
    )
    return lambda: engine_class.remote(*arguments)


def _read_back(
    request: _Request, examples: Partitions, journal: OutputJournal
) -> Iterator[Answered]:
    """The journaled predictions of each partition."""
    keys, is_routed = request.keys, request.route_threshold is not None
    for begin, part in _placed(examples):
        found: dict[_Key, Prediction] = {}
        for table, is_resumed in journal.read(range(begin, begin + len(part))):
            found |= _predictions(table, is_resumed)
        wanted = ((example.example_id, *key) for example in part for key in keys)
        yield part, [found[key] for key in wanted if not is_routed or key in found]


def make_absolute(source: ModelSource) -> ModelSource:
    """The weights with absolute folders, so that every worker finds them; hub names unchanged."""
    path, adapter = (
        str(Path(name).expanduser().absolute())
        if name and Path(name).expanduser().exists()
        else name
        for name in (source.path, source.adapter)
    )
    return replace(source, path=path or source.path, adapter=adapter)


def _table(predictions: Iterable[Prediction]) -> pa.Table:
    return pa.Table.from_pylist([to_row(p) for p in predictions], schema=schema.OUTPUTS)


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
