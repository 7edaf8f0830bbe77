"""Sends both sides of a query to one engine or to one each, and retries if an engine dies."""

import asyncio
import contextlib
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Literal, Protocol, TypeVar

from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import DataError
from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.recommender import (
    Mode,
    Recommender,
    RequestMode,
    SideRequest,
    sides_of,
)
from msrrec.inference.routing import CHAINS, thinks
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from serve.limits import overloaded
from serve.tasks import drain, gather
from serve.text_work import count_chars, work_on_text

logger = logging.getLogger(f"msrrec.{__name__}")

T = TypeVar("T")

Phase = Literal["queue", Side, "ranking"]
"""A part of the work on a query: waiting for a place, a side's output, the candidates' scores."""

MAX_ATTEMPTS = 4
"""Maximum number of tries per side; another try follows only the death of an engine."""

_BACKOFF_S = 0.2
"""Seconds before the second try; doubled for each further one."""


class EngineLost(Exception):
    """The process of the engine is gone; another engine may answer the request."""


class EngineClient(Protocol):
    """A client of an engine in another process.

    Cancelling a call cancels its request in the engine. Both methods raise EngineLost if the engine
    died, EngineError if it refuses, and HttpError if it takes no more requests.
    """

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """The whole outputs, which one engine writes at once."""
        ...

    def stream(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Generation]]]:
        """The same, with all news of a moment in one message: numbers of requests, and pieces.

        Pieces have the finish reason ``""``; the last one of a request is its whole output.
        """
        ...


@dataclass(frozen=True)
class Delta:
    """The text of a side since its last delta.

    Attributes:
        offset: Position of the text in the side's whole text, in characters. It is the length so
            far, unless a restarted engine generated a different text than the one that died.
    """

    side: Side
    offset: int
    text: str


@dataclass(frozen=True)
class FanOutResult:
    """The outputs of all sides, and the fused recommendation.

    Attributes:
        outputs: By side.
        decision: The recommendation.
        prompt_tokens: Tokens of all sides' prompts.
        history_used: Purchases that every side's prompt shows.
    """

    outputs: dict[Side, SideOutput]
    decision: Recommendation
    prompt_tokens: int
    history_used: int


class FanOut:
    """Sends a query's sides to their engines and decides between the outputs."""

    def __init__(self, recommender: Recommender, clients: Mapping[str, EngineClient]) -> None:
        """Keep recommender and engine clients.

        Args:
            recommender: A recommender without an engine.
            clients: Engine clients by side, ``user`` and ``item``; full and direct outputs use
                ``user``. One client for both gets their requests in one message.
        """
        self.recommender, self._clients = recommender, clients
        self.on_retry: Callable[[Side], None] = lambda side: None
        """Called for each request whose engine died."""
        self.on_phase: Callable[[RequestMode, Phase, float], None] = lambda *_: None
        """Called after each part of a query's work with the seconds that it took."""

    async def generate(
        self, query: Query, mode: RequestMode, *, ranked: bool = False
    ) -> FanOutResult:
        """Generate all sides concurrently; cancelling this call cancels them.

        A routed query gets its chains only after a direct answer that is unsure. ``ranked`` also
        measures the likelihood of every candidate after each side's reasoning.

        Raises:
            DataError: If the prompt is too long, or a query is routed without a threshold.
            HttpError: If an engine takes no more requests, or died too often.
            EngineError: If an engine refuses.
        """
        if mode == "fast":
            return await self._weigh(query)
        asked = _Asked(query, mode, ranked)
        if mode != "routed":
            return await self._generate_all(asked, mode, sides_of(mode))
        threshold = self._threshold()
        direct = await self._generate_all(asked, "direct", ("direct",))
        if not thinks(direct.outputs["direct"], threshold):
            return direct
        return self._join(direct, await self._generate_all(asked, "fused", CHAINS))

    async def stream(
        self, query: Query, mode: RequestMode, *, ranked: bool = False
    ) -> AsyncIterator[Delta | FanOutResult]:
        """Deltas of all sides as they arrive, then the result; raises as ``generate`` does."""
        if mode == "fast":
            yield await self._weigh(query)
            return
        asked = _Asked(query, mode, ranked)
        if mode != "routed":
            async for event in self._stream_all(asked, mode, sides_of(mode)):
                yield event
            return
        threshold, direct = self._threshold(), None
        async for event in self._stream_all(asked, "direct", ("direct",)):
            if isinstance(event, Delta):
                yield event
            else:
                direct = event
        assert direct is not None  # the last event of a stream is its result
        if not thinks(direct.outputs["direct"], threshold):
            yield direct
            return
        async for event in self._stream_all(asked, "fused", CHAINS):
            yield event if isinstance(event, Delta) else self._join(direct, event)

    def _threshold(self) -> float:
        """The service's threshold of routed queries."""
        threshold = self.recommender.config.route_threshold
        if threshold is None:
            raise DataError(
                "mode: is routed, for which this service has no threshold; expected another mode, "
                "or a service started with inference.route_threshold"
            )
        return threshold

    def _join(self, direct: FanOutResult, chains: FanOutResult) -> FanOutResult:
        """The result of a routed query that thinks."""
        outputs = direct.outputs | chains.outputs
        num_tokens = direct.prompt_tokens + chains.prompt_tokens
        decision = self.recommender.decide("routed", outputs)
        used = min(direct.history_used, chains.history_used)
        return FanOutResult(outputs, decision, num_tokens, used)

    async def _weigh(self, query: Query) -> FanOutResult:
        """The candidates by their likelihoods without any reasoning, see ``FastRequest``."""
        fast = await work_on_text(count_chars(query), lambda: self.recommender.build_fast(query))
        with self._timed("fast", "ranking"):
            found = await self._generate(("direct",), fast.scoring.requests)
        return self._decide("fast", {"direct": fast.prompt}, [fast.read(found)])

    async def _generate_all(
        self, asked: "_Asked", mode: Mode, sides: Iterable[Side]
    ) -> FanOutResult:
        requests = await self._requests(asked.query, sides)
        found = await gather(self._answer(asked, group) for group in self._by_engine(requests))
        return self._decide(mode, requests, [output for of_group in found for output in of_group])

    async def _stream_all(
        self, asked: "_Asked", mode: Mode, sides: Iterable[Side]
    ) -> AsyncIterator[Delta | FanOutResult]:
        requests = await self._requests(asked.query, sides)
        queue: asyncio.Queue[Delta] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(self._answer_stream(asked, group, queue))
            for group in self._by_engine(requests)
        ]
        async with contextlib.aclosing(drain(queue, tasks)) as drained:
            async for deltas in drained:
                for delta in deltas:
                    yield delta
        yield self._decide(mode, requests, [one for task in tasks for one in task.result()])

    def _by_engine(
        self, requests: Mapping[Side, SideRequest]
    ) -> Iterator[dict[Side, GenerationRequest]]:
        """The requests that one engine gets in one message."""
        for _, sides in groupby(requests, lambda side: id(self._client(side))):
            yield {side: requests[side].request for side in sides}

    async def _answer(
        self, asked: "_Asked", requests: Mapping[Side, GenerationRequest]
    ) -> list[SideOutput]:
        """The outputs of sides that one engine writes."""
        with self._timed(asked.mode, *requests):
            found = await self._generate(tuple(requests), list(requests.values()))
        return await self._read(asked, requests, found)

    async def _answer_stream(
        self,
        asked: "_Asked",
        requests: Mapping[Side, GenerationRequest],
        queue: asyncio.Queue[Delta],
    ) -> list[SideOutput]:
        """As ``_answer``; deltas are put into the queue meanwhile."""
        with self._timed(asked.mode, *requests):
            found = await self._follow(requests, queue)
        return await self._read(asked, requests, found)

    async def _read(
        self,
        asked: "_Asked",
        requests: Mapping[Side, GenerationRequest],
        generations: Sequence[Generation],
    ) -> list[SideOutput]:
        """What sides of one engine say, with the likelihoods of all candidates if that is asked."""
        pairs = list(zip(requests.items(), generations, strict=True))
        outputs = [self.recommender.read(asked.query, side, one) for (side, _), one in pairs]
        if not asked.ranked:
            return outputs
        build = self.recommender.build_scoring
        scorings = [build(asked.query, request, one) for (_, request), one in pairs]
        with self._timed(asked.mode, "ranking"):
            wanted = [request for scoring in scorings for request in scoring.requests]
            found = iter(await self._generate(tuple(requests), wanted))
        return [
            replace(output, candidate_logprobs=one.read(list(islice(found, len(one.requests)))))
            for output, one in zip(outputs, scorings, strict=True)
        ]

    @contextlib.contextmanager
    def _timed(self, mode: RequestMode, *phases: Phase) -> Iterator[None]:
        """Tell how long the block took, if it succeeds."""
        began = time.monotonic()
        yield
        for phase in phases:
            self.on_phase(mode, phase, time.monotonic() - began)

    async def _requests(self, query: Query, sides: Iterable[Side]) -> dict[Side, SideRequest]:
        return await work_on_text(
            count_chars(query), lambda: self.recommender.fit_requests(query, sides)
        )

    def _client(self, side: Side) -> EngineClient:
        return self._clients[side if side == "item" else "user"]

    async def _generate(
        self, sides: Sequence[Side], requests: Sequence[GenerationRequest]
    ) -> list[Generation]:
        """Whole outputs for sides of one engine, in one message, as each costs about 1 ms."""
        return await self._retrying(sides, lambda: self._client(sides[0]).generate(requests))

    async def _follow(
        self, requests: Mapping[Side, GenerationRequest], queue: asyncio.Queue[Delta]
    ) -> list[Generation]:
        """Whole outputs of sides of one engine; their deltas are put into the queue meanwhile.

        If the engine dies, another one is asked for those that are not whole yet.
        """
        sent = {side: SentText(side) for side in requests}
        whole: dict[Side, Generation] = {}
        left = list(requests)

        async def attempt() -> list[Generation]:
            asked = tuple(left)
            ids: dict[Side, list[int]] = {side: [] for side in asked}
            async for news in self._client(asked[0]).stream([requests[side] for side in asked]):
                for number, piece in news:
                    side, is_final = asked[number], bool(piece.finish_reason)
                    if is_final:
                        whole[side], ids[side] = piece, []
                        left.remove(side)
                    ids[side] += piece.token_ids
                    delta = sent[side].advance(self._text(ids[side]), is_final)
                    if delta is not None:
                        queue.put_nowait(delta)
                if not left:
                    return [whole[side] for side in requests]
            raise EngineLost("the stream ended before the outputs did")

        return await self._retrying(left, attempt)

    def _text(self, token_ids: Iterable[int]) -> str:
        return str(self.recommender.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def _retrying(self, sides: Sequence[Side], attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again if the engine died; the same seed gives the same output."""
        for n in range(MAX_ATTEMPTS):
            if n > 0:
                for side in sides:
                    self.on_retry(side)
                await asyncio.sleep(_BACKOFF_S * 2 ** (n - 1))
            try:
                return await attempt()
            except EngineLost as error:
                told = " and ".join(sides), error, n + 1, MAX_ATTEMPTS
                logger.warning("%s: %s (try %d of %d)", *told)
        raise overloaded("the engine was lost; try again shortly")

    def _decide(
        self,
        mode: RequestMode,
        requests: Mapping[Side, SideRequest],
        outputs: Sequence[SideOutput],
    ) -> FanOutResult:
        by_side = dict(zip(requests, outputs, strict=True))
        prompt_tokens = sum(len(one.request.prompt_ids) for one in requests.values())
        used = min(one.history_used for one in requests.values())
        decision = self.recommender.decide(mode, by_side)
        return FanOutResult(by_side, decision, prompt_tokens, used)


@dataclass(frozen=True)
class _Asked:
    """A query, its mode, and whether all its candidates are to be ranked."""

    query: Query
    mode: RequestMode
    ranked: bool


class SentText:
    """The text of one side that a client has received, to find the next delta."""

    def __init__(self, side: Side) -> None:
        self._side: Side = side
        self._sent = ""

    def advance(self, text: str, is_final: bool = False) -> Delta | None:
        """The delta that turns the sent text into ``text``, or None if nothing is to be sent.

        Args:
            text: The side's whole text so far.
            is_final: If False, an incomplete last character is held back, and nothing is sent while
                a restarted engine catches up with the one that died.
        """
        if not is_final:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
            if self._sent.startswith(text):
                return None
        if text == self._sent:
            return None
        offset = _common_prefix(self._sent, text)
        self._sent = text
        return Delta(self._side, offset, text[offset:])


def _common_prefix(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    differing = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
