"""The service on stand-in engines of a fixed latency, behind the interface of the real ones.

``import_path: tests.service.stand_in:build_app`` in a Serve configuration file. Annotations must
stay real objects in this file, as in ``serve.app``.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from ray.serve import Application

from msrrec import loading
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.models import ModelSource, locate_model
from serve.app import AppArgs, assemble
from serve.keys import Keys
from serve.rollout_cluster import Blueprint
from tests.support.engine import FakeEngine, answer_by_seed

_PIECE = 4
"""Tokens of a piece of a stream."""


class StandInArgs(AppArgs):
    """Arguments of the application on stand-ins."""

    seconds: float = 0.5
    """How long an output takes."""
    places: int = 64
    """Outputs that an engine works on at once."""


def build_app(args: StandInArgs) -> Application:
    """The application of a model whose tokenizer alone is used."""
    return build_version(Blueprint(args, Keys.read(args.serve), build_version))


def build_version(blueprint: Blueprint) -> Application:
    """The application of one version."""
    args = blueprint.args
    assert isinstance(args, StandInArgs)
    source = locate_model(args.model_dir, args.model, args.prompt)
    return assemble(blueprint, source, partial(StandInEngine, source, args.seconds, args.places))


class StandInEngine:
    """Names the candidate that the seed picks, always the same for a request, in a fixed time."""

    def __init__(self, source: ModelSource, seconds: float, places: int) -> None:
        self._inner = FakeEngine(answer_by_seed)
        self._inner.tokenizer = loading.load_tokenizer(source)
        self._seconds, self._places = seconds, asyncio.Semaphore(places)

    async def generate(self, request: GenerationRequest) -> Generation:
        """The whole output."""
        return [piece async for piece in self.stream(request)][-1]

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Pieces of the output, then all of it."""
        async with self._places:
            if request.next_ids:
                scores = tuple(-1.0 - n for n in range(len(request.next_ids)))
                yield Generation((0,), (-1.0,), "length", None, scores)
                return
            (whole,) = self._inner.generate([request])
            starts = range(0, len(whole.token_ids), _PIECE)
            for n in starts:
                await asyncio.sleep(self._seconds / len(starts))
                piece = slice(n, n + _PIECE)
                yield Generation(whole.token_ids[piece], whole.token_logprobs[piece], "")
            yield whole

    async def check_health(self) -> None:
        """It lives as long as its process."""
