"""Which engines get batches, with actors and a Ray that do as they are told."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray

from msrrec import schema
from msrrec.config import InferenceConfig
from msrrec.inference.engine_pool import Arrived, EnginePool
from msrrec.inference.work import Batch, Work
from msrrec.schema import Example


class Actor:
    """Answers each batch with one table, and notes the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.start = object()
        self.locate = SimpleNamespace(remote=lambda: self.start)
        self.generate = SimpleNamespace(remote=self._generate)

    def _generate(self, rows: pa.Table) -> Any:
        self.sizes.append(len(rows))
        return iter([rows])


def make_batches(*sizes: int) -> list[Batch]:
    places = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return [
        Batch(a, b, tuple(Example(f"u{n}", "u", ("a",), "b", ("b", "c")) for n in range(a, b)))
        for a, b in pairwise(places)
    ]


def encode(batch: Batch) -> pa.Table:
    rows = [{"example_id": example.example_id} for example in batch.examples]
    return pa.Table.from_pylist(rows, schema=schema.OUTPUTS)


def test_an_engine_that_starts_first_leaves_as_many_batches_for_each_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = InferenceConfig(num_engines=3, batch_size=4)
    actors: list[Actor] = []
    waited: list[list[int]] = []

    def start() -> Actor:
        actors.append(Actor())
        return actors[-1]

    def wait(tasks: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        waited.append([len(actor.sizes) for actor in actors])
        starts = [actor.start for actor in actors if actor.start in tasks]
        return (starts or tasks)[:1], []

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda ref: ref if isinstance(ref, pa.Table) else "node")
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    work = Work(make_batches(*[4] * 6), config.num_engines, has_answers=False)
    found = list(EnginePool(start, encode, work, config, "fake").run())
    assert waited[:4] == [[0, 0, 0], [2, 0, 0], [2, 2, 0], [2, 2, 2]]
    arrived = [
        i for f in found if isinstance(f, Arrived) for i in f.table["example_id"].to_pylist()
    ]
    assert sorted(arrived) == sorted(f"u{n}" for n in range(24))
