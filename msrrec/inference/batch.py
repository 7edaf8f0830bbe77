"""Batch inference through Ray Data: one dataset, and so one engine start, for all sides.

The stage is a plain class that Ray Data runs in actors; Ray itself is imported where it is used.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.vllm import engine_resources
from msrrec.errors import DataError, EngineError, MsrRecError
from msrrec.inference.decoding import Query, request_seed
from msrrec.inference.fusion import SideOutput
from msrrec.inference.recommender import Recommender
from msrrec.log import Progress, setup
from msrrec.models import ModelSource
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

BuildRecommender = Callable[[ModelSource, InferenceConfig], Recommender]

_MAX_ACTOR_RESTARTS = 1
"""A lost machine is replaced; a row that ends its engine twice ends the run and not the week."""

_QUERIES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
    ]
)
_OUTPUTS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("index", pa.int64()),
        pa.field("perplexity", pa.float64()),
        pa.field("num_tokens", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("failure", pa.string()),
    ]
)
"""``error`` says why an example was refused, ``failure`` why its engine could not work at all."""


@dataclass(frozen=True)
class Prediction:
    """One side of one example.

    Attributes:
        output: What the side said; invalid and empty where the example was refused.
        seed: The sample's seed.
        error: Why the example was refused, or None.
    """

    example_id: str
    output: SideOutput
    seed: int
    error: str | None = None


class RecommendStage:
    """A Ray Data stage: rows of titles in, one row a side out.

    An engine that can't start or fails is told in a row too: Ray would bury an exception under its
    own, and print them all.
    """

    def __init__(
        self,
        source: ModelSource,
        config: InferenceConfig,
        sides: Sequence[Side],
        build: BuildRecommender = Recommender.from_source,
    ) -> None:
        """Start the engine, once an actor."""
        setup()
        self._sides, self._seed = tuple(sides), config.seed
        self._recommender: Recommender | None = None
        self._failure = ""
        try:
            self._recommender = build(source, config)
        except MsrRecError as error:
            self._failure = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The outputs of a batch; a refused example becomes rows that say why."""
        if self._recommender is None:
            return _failure(self._failure)
        queries = [
            Query(row["example_id"], row["domain"], tuple(row["history"]), tuple(row["candidates"]))
            for row in batch.to_pylist()
        ]
        try:
            results = self._recommender.generate_each(queries, self._sides)
        except EngineError as error:
            return _failure(str(error))
        rows = [
            _output_row(query.key, side, output, request_seed(self._seed, query.key, side))
            for query, result in zip(queries, results, strict=True)
            for side, output in result.items()
        ]
        return pa.Table.from_pylist(rows, schema=_OUTPUTS)


def predict(
    examples: Sequence[Example],
    dataset: Dataset,
    source: ModelSource,
    sides: Sequence[Side],
    config: InferenceConfig,
    build: BuildRecommender = Recommender.from_source,
) -> list[Prediction]:
    """Every side of every example, in the order of the examples and then of the sides.

    The result does not depend on batches, engines or their order: each sample has its own seed.
    ``build`` makes the recommender of each actor.

    Raises:
        ConfigError: If the cluster is too small for ``num_engines``.
        EngineError: If an engine can't start or fails.
    """
    if not examples:
        return []
    found: dict[tuple[str, str], Prediction] = {}
    outputs = _pipeline(_query_tables(examples, dataset, config), source, sides, config, build)
    with Progress("recommend", len(examples), "users") as progress:
        for table in _batches(outputs, source):
            for row in table.to_pylist():
                prediction = _prediction(row)
                found[prediction.example_id, prediction.output.side] = prediction
            progress.advance(table.num_rows // len(sides))
    return [found[example.example_id, side] for example in examples for side in sides]


def _query_tables(
    examples: Sequence[Example], dataset: Dataset, config: InferenceConfig
) -> Iterator[pa.Table]:
    """The titles of the examples, one table a batch; each engine gets at least one."""
    batch_size = min(config.batch_size, math.ceil(len(examples) / config.num_engines))
    for start in range(0, len(examples), batch_size):
        rows = [
            {
                "example_id": example.example_id,
                "domain": dataset.domain,
                "history": dataset.titles(example.history),
                "candidates": dataset.titles(example.candidates),
            }
            for example in examples[start : start + batch_size]
        ]
        yield pa.Table.from_pylist(rows, schema=_QUERIES)


def _pipeline(
    tables: Iterable[pa.Table],
    source: ModelSource,
    sides: Sequence[Side],
    config: InferenceConfig,
    build: BuildRecommender,
) -> "ray.data.Dataset":
    """The dataset of outputs, not yet executed."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    batches = list(tables)
    num_engines = min(config.num_engines, len(batches))
    with warnings.catch_warnings():
        # Restarts have no named parameter in this release, and users can't change it.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_arrow(batches).map_batches(
            RecommendStage,
            fn_constructor_args=(_absolute(source), config, tuple(sides), build),
            batch_size=None,  # a block is a batch already
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=num_engines),
            ray_remote_args_fn=_restarts,
            **engine_resources(
                config, num_engines, "inference.num_engines", ray.cluster_resources()
            ),
        )


def _absolute(source: ModelSource) -> ModelSource:
    """Folders as every worker finds them, whatever its working directory; hub names as they are."""
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
    """Tables of outputs as they are finished; Ray's errors become ours."""
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
        raise EngineError(f"{source.name}: batch inference failed ({_last_line(cause)})") from error


def _failure(reason: str) -> pa.Table:
    row = {
        "example_id": "",
        "side": "",
        "text": "",
        "reasoning": "",
        "num_tokens": 0,
        "seed": 0,
        "failure": reason,
    }
    return pa.Table.from_pylist([row], schema=_OUTPUTS)


def _output_row(
    example_id: str, side: Side, output: SideOutput | DataError, seed: int
) -> dict[str, Any]:
    is_refused = isinstance(output, DataError)
    told = SideOutput(side, "", "", None, None, 0) if isinstance(output, DataError) else output
    return {
        "example_id": example_id,
        "side": side,
        "text": told.text,
        "reasoning": told.reasoning,
        "index": told.index,
        "perplexity": told.perplexity,
        "num_tokens": told.num_tokens,
        "seed": seed,
        "error": str(output) if is_refused else None,
    }


def _prediction(row: dict[str, Any]) -> Prediction:
    output = SideOutput(
        side=row["side"],
        text=row["text"],
        reasoning=row["reasoning"],
        index=row["index"],
        perplexity=row["perplexity"],
        num_tokens=row["num_tokens"],
    )
    return Prediction(row["example_id"], output, row["seed"], row["error"])


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
