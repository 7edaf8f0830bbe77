"""A replica asks its engine for pieces only where somebody reads them."""

import asyncio
from collections.abc import AsyncIterator

from msrrec.engines.base import Generation, GenerationRequest
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
    async def go() -> list[Generation]:
        return [piece async for piece in EngineReplica(Counting).stream(REQUEST)]

    *pieces, whole = asyncio.run(go())
    assert [len(piece.token_ids) for piece in pieces] == [1]  # the others came within the moment
    assert (whole.finish_reason, len(whole.token_ids)) == ("stop", 100)
