"""A replica asks its engine for pieces only where somebody reads them."""

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from serve.engine import EngineReplica

REQUEST = GenerationRequest((1, 2, 3), 0, 8, 0.7)


class Counting:
    """An engine that counts how it is asked; each output has 100 tokens, one a piece."""

    def __init__(self) -> None:
        self.num_pieces = 0

    async def generate(self, request: GenerationRequest) -> Generation:
        return Generation((7,) * 100, (-1.0,) * 100, "stop")

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        for _ in range(100):
            self.num_pieces += 1
            yield Generation((7,), (-1.0,), "")
        yield await self.generate(request)

    async def check_health(self) -> None:
        """Always well."""


def test_a_whole_output_comes_without_pieces() -> None:
    engine = Counting()
    (output,) = asyncio.run(EngineReplica(lambda: engine).generate([REQUEST]))
    assert output.token_ids == (7,) * 100
    assert engine.num_pieces == 0


class Stepping(Counting):
    """Each step writes a token of every output at the same moment, as vLLM does."""

    def __init__(self, steps: int, seconds: float) -> None:
        super().__init__()
        self._steps, self._seconds = steps, seconds
        self._step = asyncio.Condition()
        self.written = 0

    async def run(self) -> None:
        for _ in range(self._steps):
            await asyncio.sleep(self._seconds)
            async with self._step:
                self.written += 1
                self._step.notify_all()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        for n in range(self._steps):
            async with self._step:
                while self.written <= n:
                    await self._step.wait()
            yield Generation((request.seed + n,), (-1.0,), "")
        ids = tuple(range(request.seed, request.seed + self._steps))
        yield Generation(ids, (-1.0,) * self._steps, "stop")


def read_two(engine: Stepping) -> list[tuple[int, list[tuple[int, Generation]]]]:
    """The messages of two outputs, each with the tokens that were written when it came."""

    async def go() -> list[tuple[int, list[tuple[int, Generation]]]]:
        running = asyncio.create_task(engine.run())
        asked = [replace(REQUEST, seed=seed) for seed in (100, 200)]
        stream = EngineReplica(lambda: engine).stream(asked)
        found = [(engine.written, news) async for news in stream]
        await running
        return found

    return asyncio.run(go())


def test_pieces_of_a_moment_are_one_message_and_the_whole_comes_last() -> None:
    messages = [news for _, news in read_two(Stepping(20, 0.01))]
    first, *_, last = messages
    assert [(n, piece.token_ids) for n, piece in first] == [(0, (100,)), (1, (200,))]
    assert {n: len(piece.token_ids) for n, piece in last if piece.finish_reason} == {0: 20, 1: 20}
    assert len(messages) < 10


def test_neither_output_is_behind_the_other_where_steps_are_slow() -> None:
    seen = {0: 0, 1: 0}
    for written, news in read_two(Stepping(4, 0.15)):
        for number, piece in news:
            count = len(piece.token_ids)
            seen[number] = count if piece.finish_reason else seen[number] + count
        assert seen == {0: written, 1: written}


def test_an_output_that_fails_ends_the_others() -> None:
    class Failing(Counting):
        """The first output never ends, the second one is refused."""

        def __init__(self) -> None:
            super().__init__()
            self.ended = 0

        async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
            if request.seed:
                raise EngineError("refused")
            try:
                await asyncio.sleep(60)
            finally:
                self.ended += 1
            yield await self.generate(request)

    engine = Failing()

    async def go() -> None:
        async for _ in EngineReplica(lambda: engine).stream([REQUEST, replace(REQUEST, seed=1)]):
            pass

    with pytest.raises(EngineError, match="refused"):
        asyncio.run(go())
    assert engine.ended == 1


def test_two_outputs_that_fail_at_once_are_one_error(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Counting):
        async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
            await asyncio.sleep(0)
            raise EngineError("refused")
            yield

    async def go() -> None:
        with pytest.raises(EngineError, match="refused"):
            await anext(EngineReplica(Refusing).stream([REQUEST, REQUEST]))
        gc.collect()

    asyncio.run(go())
    assert "never retrieved" not in caplog.text


def test_a_stream_that_is_closed_ends_its_outputs() -> None:
    class Endless(Counting):
        ended = 0

        async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
            try:
                while True:
                    await asyncio.sleep(0)
                    yield Generation((7,), (-1.0,), "")
            finally:
                self.ended += 1

    async def go() -> None:
        engine = Endless()
        stream = EngineReplica(lambda: engine).stream([REQUEST, REQUEST])
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert engine.ended == 2

    asyncio.run(go())
