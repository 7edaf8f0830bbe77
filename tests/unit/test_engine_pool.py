"""Which engines get batches, with actors and a Ray that do as they are told."""

import time
from collections.abc import Iterator
from dataclasses import replace
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


def test_an_engine_that_holds_a_suspect_gets_nothing_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = InferenceConfig(num_engines=1, batch_size=4)
    actor = Actor()
    waited: list[int] = []

    def wait(tasks: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        waited.append(len(actor.sizes))
        return tasks[:1], []

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda ref: ref if isinstance(ref, pa.Table) else "node")
    monkeypatch.setattr(ray, "kill", lambda _: None)
    suspect, other = make_batches(4, 4)
    work = Work([replace(suspect, is_suspect=True), other], config.num_engines, has_answers=False)
    assert len(list(EnginePool(lambda: actor, encode, work, config, "fake").run())) == 2
    assert waited == [0, 1, 1, 2, 2]  # its start, then each batch's table and its end


def test_a_lost_engine_costs_only_the_examples_that_it_had_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = InferenceConfig(num_engines=1, batch_size=4)
    asked: list[list[str]] = []

    def generate(rows: pa.Table) -> Iterator[Any]:
        asked.append(rows["example_id"].to_pylist())
        yield rows.slice(0, 3)
        yield rows.slice(3) if len(asked) > 1 else None  # the first engine is lost here

    def get(ref: Any) -> Any:
        if ref is None:
            raise ray.exceptions.ActorUnavailableError("lost", b"0" * 16)
        return ref

    def start() -> Any:
        return SimpleNamespace(
            locate=SimpleNamespace(remote=lambda: "node"),
            generate=SimpleNamespace(remote=generate),
        )

    monkeypatch.setattr(ray, "wait", lambda tasks, **_: (tasks[:1], []))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(ray, "nodes", list)
    slept_s = [0.0]
    monkeypatch.setattr(time, "sleep", slept_s.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept_s))
    work = Work(make_batches(4), config.num_engines, has_answers=False)
    found = list(EnginePool(start, encode, work, config, "fake").run())
    assert asked == [["u0", "u1", "u2", "u3"], ["u3"]]
    assert [f.num_examples for f in found if isinstance(f, Arrived)][:2] == [3, 1]
