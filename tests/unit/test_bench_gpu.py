"""The benchmark of a GPU runs on a tiny shape: training, batch inference and the service's load."""

import asyncio
import math
import sys

import pytest

from bench import gpu
from msrrec.engines.base import Generation, GenerationRequest
from tests.support.engine import FakeEngine, answer_by_seed, recommender


class Online:
    """An engine for many callers."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def generate(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(0.01)
        return self._engine.generate([request])[0]


def test_a_tiny_shape_trains_on_processors() -> None:
    lines = gpu.train("tiny", num_examples=1, steps=1)
    rates = {what: value for _, what, value, unit in lines if unit == "tokens/s"}
    assert rates.keys() == {"ours on cpu", "plain on cpu"}
    assert all(rate > 0 for rate in rates.values())


def test_batches_and_the_service_are_timed_around_any_engine() -> None:
    engine, queries = FakeEngine(answer_by_seed), gpu.make_queries(4)
    rates = {what: value for _, what, value, _ in gpu.batch(engine, queries, rounds=1)}
    assert rates.keys() == {"ours", "vLLM alone", "ours over vLLM alone"}
    asked = recommender(engine, gpu.make_config())
    lines = asyncio.run(gpu.serve(Online(engine), asked, queries, seconds=0.1))
    figures = {unit: value for _, _, value, unit in lines}
    assert 0.01 <= figures["s, p50"] <= figures["s, p99"]
    assert figures["requests/s"] > 4


def test_a_part_that_fails_or_takes_too_long_leaves_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "BUDGETS_S", {"train": 0.2})
    ((part, what, value, _),) = gpu.run_in_turn(["--shape", "tiny"])
    assert (part, what) == ("train", "took more than 0.2 s")
    assert math.isnan(value)
    monkeypatch.setattr(gpu, "BUDGETS_S", {"train": 60})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert gpu.run_in_turn([])[0][1] == "ended with 1"
    assert gpu.to_table([("train", "ours", 1234.5, "tokens/s")]).endswith(
        "| train | ours | 1,234 tokens/s |"
    )
