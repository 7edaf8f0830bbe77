"""A replica asks its engine for pieces only where somebody reads them."""

import asyncio
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


def test_pieces_of_a_moment_are_one_message_and_the_whole_comes_last() -> None:
    async def go() -> list[list[tuple[int, Generation]]]:
        return [news async for news in EngineReplica(Counting).stream([REQUEST, REQUEST])]

    first, *others = asyncio.run(go())
    assert [(n, len(piece.token_ids)) for n, piece in first] == [(0, 1)]
    whole = {n: piece for news in others for n, piece in news if piece.finish_reason}
    assert [len(whole[n].token_ids) for n in (0, 1)] == [100, 100]
    assert len(others) == 2  # the other pieces came within the moment


def test_both_outputs_are_written_at_once_and_no_piece_is_lost() -> None:
    class Slow(Counting):
        """An output of numbers, each after a message's while."""

        async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
            for n in range(5):
                await asyncio.sleep(0.03)
                yield Generation((request.seed + n,), (-1.0,), "")
            yield Generation((), (), "stop")

    async def go() -> list[list[tuple[int, Generation]]]:
        asked = [replace(REQUEST, seed=seed) for seed in (10, 20)]
        return [news async for news in EngineReplica(Slow).stream(asked)]

    messages = asyncio.run(go())
    seen: dict[int, list[int]] = {0: [], 1: []}
    for number, piece in (one for news in messages for one in news):
        seen[number] += piece.token_ids
    for number, ids in seen.items():  # the whole output comes in place of the last pieces
        begin = 10 * (number + 1)
        assert ids == list(range(begin, begin + len(ids)))
    assert len(seen[0]) >= 3
    assert any(len(news) == 2 for news in messages)


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
