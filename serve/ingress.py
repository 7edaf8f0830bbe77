"""The HTTP API as a FastAPI application, independent of the engines."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client.core import Metric
from starlette.types import Scope

from msrrec import __version__
from msrrec.config import ServeConfig
from msrrec.errors import DataError, EngineError
from msrrec.inference.ranking import confidence
from msrrec.inference.recommender import RequestMode
from msrrec.models import TypicalCustomer
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side
from serve.access import AccessLog
from serve.adapters import Answering, fold
from serve.admission import AdmissionControl
from serve.api_page import describe_security
from serve.batch import BatchRequest, BatchResponse, answer_batch, check_batch
from serve.error_bodies import add_error_handlers
from serve.events import EventStream, answer_whole, render_delta, render_event
from serve.fan_out import FanOut, FanOutResult, Phase
from serve.http_models import (
    MAX_TOP_K,
    Candidates,
    ErrorResponse,
    HttpError,
    ItemBody,
    ItemId,
    PurchasesBody,
    RecommendRequest,
    RecommendResponse,
    Source,
    UserId,
    from_data_error,
    from_offers,
    internal_error,
    to_query,
    to_response,
)
from serve.keys import KeyRing, Keys
from serve.limits import Guard
from serve.metrics import Metrics
from serve.operations import add_operations
from serve.readiness import Readiness
from serve.renewal import Renewals
from serve.rollout_http import Desk, add_rollout
from serve.routing import KEPT, AtRoot, read_waited
from serve.sharing import Flight, SharedAnswers, identify, identify_body
from serve.shop import Shop
from serve.stored import ChangedUser
from serve.text_work import work_on_text
from serve.version import ServedModel

logger = logging.getLogger(f"msrrec.{__name__}")

_RECOMMEND, _BATCH = "/v1/recommend", "/v1/recommend:batch"


@dataclass(frozen=True)
class Settings:
    """Facts about the default model and the limits of the API.

    Attributes:
        model: Name and version of the model in responses.
        domain: The shop in prompts if a request names none.
        max_model_len: Maximum tokens of prompt and output together.
        keys: Digests of the bearer tokens that it asks for.
        temperature: Of confidences; None where none are given.
        examples: Customers for those who try the model out.
    """

    model: ServedModel
    domain: str
    max_model_len: int
    limits: ServeConfig
    keys: Keys = field(default_factory=Keys)
    temperature: float | None = None
    examples: tuple[TypicalCustomer, ...] = ()


class Api:
    """Implements the routes: limits, deadline and metrics around a ``FanOut``."""

    def __init__(
        self,
        settings: Settings,
        fan_out: FanOut,
        shop: Shop | None = None,
        adapters: Sequence[Answering] = (),
    ) -> None:
        """Begin to answer.

        Args:
            settings: Of the service and its default model.
            fan_out: Asks the engines for the default model.
            shop: What is known of the shop.
            adapters: What answers for the domains that they name.
        """
        limits = settings.limits
        self.settings, self.fan_out = settings, fan_out
        given = (settings.temperature, settings.examples)
        self._default = Answering(settings.model, settings.domain, fan_out, *given)
        self._by_domain = {fold(one.asked_as or ""): one for one in adapters}
        self.models = (self._default, *adapters)
        self.shop = shop or Shop(limits.max_candidates)
        self._renewals = Renewals(self._renew)
        self.admission = AdmissionControl(limits.max_ongoing_requests, limits.max_queued_requests)
        size, mib = limits.cache_size, limits.cache_mib
        self.shared = SharedAnswers(size, mib << 20, limits.cache_ttl_s)
        named = [(one.asked_as or "", one.model) for one in self.models]
        self.metrics = Metrics(self.admission, named, self.shared)
        for one in self.models:
            one.fan_out.on_retry = self._count_retry
            one.fan_out.on_phase = self._time_phase
        self.share: Callable[[str, ChangedUser], Awaitable[None]] = _keep

    async def recommend(self, body: RecommendRequest, *, waited_s: float = 0.0) -> Response:
        """Answer at once or as a stream, within the deadline.

        Args:
            body: The request.
            waited_s: Seconds that another replica, which was lost, had taken of its time.

        Raises:
            HttpError: For any error, with its HTTP status.
        """
        began = time.monotonic() - waited_s
        seconds = body.seconds(self.settings.limits.deadline_s)
        deadline = asyncio.get_running_loop().time() + seconds - waited_s
        answering = self._find(body)
        offers = None
        if answering is self._default:  # stored recommendations are never of an adapter
            async with self._within(deadline, seconds):
                offers = await self.shop.find_offers(body)
        if offers:
            model = self.settings.model
            self.metrics.answers.labels("stored", model.version).inc()
            latency_s = time.monotonic() - began
            answer = from_offers(offers, model=model, top_k=body.top_k, latency_s=latency_s)
            return answer_whole(answer, stream=body.stream)
        digest = identify_body(body)
        if not self.shared.expects(digest):  # refused at once, before any work on its text
            self.admission.check(body.mode, deadline)
        async with self._within(deadline, seconds):
            asked = await self._understand(body, answering)
        one = Taken(asked, body, began, deadline, seconds)
        version = answering.model.version
        key = identify(asked.query, body.mode, ranked=one.is_ranked, version=version)
        if (found := self.shared.find(key)) is not None:
            return answer_whole(self._finish(one, found, "cached"), stream=body.stream)
        self.shared.expect(digest)
        return await self._wait(one, key)

    async def _wait(self, one: "Taken", key: bytes) -> Response:
        """The answer, or its stream, from the computation that equal requests share.

        If that was refused or late because of the request that began it, another one begins.
        """
        answer = self._stream if one.body.stream else self._answer
        while True:
            flight, begins = self.shared.join(key, functools.partial(self._compute, one))
            try:
                return await answer(one, flight, begins)
            except HttpError as error:
                is_late = asyncio.get_running_loop().time() >= one.deadline
                if begins or is_late or error.status not in (503, 504):
                    raise

    async def _answer(self, one: "Taken", flight: Flight, begins: bool) -> Response:
        try:
            async with self._within(None if begins else one.deadline, one.seconds):
                found = await flight.result()
        finally:
            await flight.leave()
        answer = self._finish(one, found, "live" if begins else "joined")
        return JSONResponse(answer.model_dump())

    async def _stream(self, one: "Taken", flight: Flight, begins: bool) -> Response:
        try:
            async with self._within(None if begins else one.deadline, one.seconds):
                await flight.admitted()
        except BaseException:
            await flight.leave()
            raise
        return EventStream(self._events(one, flight, begins), flight.leave)

    async def _compute(self, one: "Taken", flight: Flight) -> FanOutResult:
        """A new answer, within the deadline of the request that needs it first."""
        query, mode, ranked = one.asked.query, one.body.mode, one.is_ranked
        fan_out = one.asked.answering.fan_out
        began = time.monotonic()
        async with self._within(one.deadline, one.seconds):
            place = await self.admission.enter(mode, one.deadline)
        self._time_phase(mode, "queue", time.monotonic() - began)
        with place:
            flight.admit()
            async with self._within(one.deadline, one.seconds):
                if not one.body.stream:
                    return await fan_out.generate(query, mode, ranked=ranked)
                async for event in fan_out.stream(query, mode, ranked=ranked):
                    if isinstance(event, FanOutResult):
                        return event
                    flight.send(event)
                raise EngineError("a stream ended without a result")

    def _find(self, body: RecommendRequest) -> Answering:
        """The model that answers: the adapter of the request's domain, else the default one."""
        return self._by_domain.get(fold(body.domain or ""), self._default)

    async def _understand(self, body: RecommendRequest, answering: Answering) -> "Asked":
        """The query of a request, whose candidates may come from the catalogue.

        An adapter's prompts call the shop what they did in its training.
        """
        history, candidates = await self.shop.read(body)
        if answering is not self._default:
            body = body.model_copy(update={"domain": None})
        num_chars = sum(map(len, (*history, *candidates.titles)))
        query = await work_on_text(
            num_chars, lambda: to_query(body, history, candidates, domain=answering.domain)
        )
        return Asked(query, candidates, answering)

    async def change_item(
        self, item_id: str, body: ItemBody | None, *, is_kept: bool = False
    ) -> Response:
        """Offer an item of the catalogue, or give it another text; without a body, no more.

        ``is_kept`` says that the live version of a rollout has kept it, where this one reads it.
        """
        if is_kept:
            version = await self.shop.catch_up_items()
        elif body is None:
            version = await self.shop.delete(item_id)
        else:
            version = await self.shop.put(item_id, body)
        return JSONResponse({"id": item_id, "index": version})

    @property
    def is_renewing(self) -> bool:
        """Whether recommendations are being made anew."""
        return self._renewals.is_busy

    async def add_purchases(
        self, user_id: str, body: PurchasesBody, *, is_kept: bool = False
    ) -> Response:
        """Keep what a user bought, and reason anew in the background.

        ``is_kept`` says that the live version of a rollout has kept it, where this one reads it.
        """
        await self.shop.follow()
        if is_kept:
            await self.shop.catch_up()
        else:
            await self.shop.add_purchases(user_id, body)
        history = self.shop.history(user_id)
        await self._tell(user_id)
        self._renewals.add(user_id)
        return JSONResponse({"user_id": user_id, "history": len(history)}, 202)

    async def _renew(self, user_id: str) -> None:
        """Recommend for a user whose purchases changed; what fails leaves the old offers."""
        began, seconds = time.monotonic(), self.settings.limits.deadline_s
        deadline = asyncio.get_running_loop().time() + seconds
        history = self.shop.history(user_id)
        if not history:
            return
        body = RecommendRequest(history=[self.shop.name(one) for one in history], top_k=MAX_TOP_K)
        try:
            async with self._within(deadline, seconds):
                asked = await self._understand(body, self._default)
                answered = await self.fan_out.generate(asked.query, body.mode, ranked=True)
        except HttpError as error:
            logger.warning("a user is not recommended anew (%s)", error.kind)
            return
        self.metrics.count_answer(answered, "renewed", self.settings.model.version)
        taken = Taken(asked, body, began, deadline, seconds)
        self.shop.keep(user_id, history, _to_answer(taken, answered, "live"))
        await self._tell(user_id)

    async def _tell(self, user_id: str) -> None:
        """Let other replicas know what a user bought and is offered since."""
        if (changed := self.shop.changed(user_id)) is not None:
            await self.share(user_id, changed)

    async def _events(self, one: "Taken", flight: Flight, begins: bool) -> AsyncIterator[str]:
        """Server-sent events: deltas where this request began the work, then a result or error."""
        first = True
        try:
            while begins and (delta := await flight.next_delta()) is not None:
                if first:
                    self.metrics.first_token_seconds.observe(time.monotonic() - one.began)
                    first = False
                yield render_delta(delta)
            async with self._within(None if begins else one.deadline, one.seconds):
                found = await flight.result()
            result = self._finish(one, found, "live" if begins else "joined")
            yield render_event("result", result.model_dump())
        except HttpError as error:
            yield self._end_in(error)
        except Exception:  # the client has a status already, and is to learn of the end
            logger.exception("a stream failed")
            yield self._end_in(internal_error())

    def _end_in(self, error: HttpError) -> str:
        """The last event of a stream that ends in an error."""
        self.metrics.stream_errors.labels(str(error.status)).inc()
        self.metrics.refusals.labels(error.kind).inc()
        return render_event("error", error.body())

    @contextlib.asynccontextmanager
    async def _within(self, deadline: float | None, seconds: float) -> AsyncIterator[None]:
        """Turn errors of the work, a missed deadline included, into HTTP errors.

        The deadline was ``seconds`` away when the request came.
        """
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError as error:
            message = f"no answer within {seconds:g} s; send a smaller request, or try again later"
            retry_after_s = self.admission.retry_after()
            raise HttpError(
                504, "deadline_exceeded", message, retry_after_s=retry_after_s
            ) from error
        except DataError as error:
            raise from_data_error(error) from error
        except EngineError as error:
            logger.error("engine: %s", error)
            message = "the engine could not work on this request"
            raise HttpError(500, "engine_error", message) from error

    def _finish(self, one: "Taken", answer: FanOutResult, source: Source) -> RecommendResponse:
        version = one.asked.answering.model.version
        self.metrics.seconds.labels(one.body.mode, source, version).observe(one.age_s)
        self.metrics.count_answer(answer, source, version)
        return _to_answer(one, answer, source)

    def _time_phase(self, mode: RequestMode, phase: Phase, seconds: float) -> None:
        self.metrics.phase_seconds.labels(mode, phase).observe(seconds)

    def _count_retry(self, side: Side) -> None:
        self.metrics.retries.labels(side).inc()


async def _keep(user_id: str, changed: ChangedUser) -> None:
    """What a service of one replica does."""


@dataclass(frozen=True)
class Asked:
    """A query, what its candidates are beside their titles, and which model answers it."""

    query: Query
    candidates: Candidates
    answering: Answering


@dataclass(frozen=True)
class Taken:
    """A request that was understood.

    Attributes:
        asked: What is asked of the model.
        body: The request.
        began: When it came, by ``time.monotonic``.
        deadline: When it must be answered, by the clock of the event loop.
        seconds: How far away that was when it came.
    """

    asked: Asked
    body: RecommendRequest
    began: float
    deadline: float
    seconds: float

    @property
    def is_ranked(self) -> bool:
        """Whether the likelihood of every candidate is needed."""
        return self.body.top_k > 1 or self.asked.answering.temperature is not None

    @property
    def age_s(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.began


def _to_answer(one: Taken, answer: FanOutResult, source: Source) -> RecommendResponse:
    answering = one.asked.answering
    return to_response(
        one.asked.candidates,
        answer.outputs,
        answer.decision,
        model=answering.model,
        top_k=one.body.top_k,
        source=source,
        sureness=confidence(answer.decision, answering.temperature),
        prompt_tokens=answer.prompt_tokens,
        history_used=answer.history_used,
        latency_s=one.age_s,
    )


def build_http(
    api: Api,
    tell_readiness: Callable[[], Awaitable[Readiness]],
    collect: Callable[[], Awaitable[list[Metric]]] | None = None,
    desk: Desk | None = None,
) -> FastAPI:
    """The FastAPI application.

    Args:
        api: Implementation of the routes.
        tell_readiness: Whether every side has an engine, or can't have one.
        collect: Gives the metrics of all replicas; None for those of this one.
        desk: Where rollouts are ordered; None where none are possible.
    """
    app = FastAPI(
        title="MSR-Rec",
        version=__version__,
        description="Sequential recommendation by reasoning from the user's and the items' side.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )

    def count(scope: Scope, status: int) -> None:
        if scope["path"] == _RECOMMEND or (scope["path"] == _BATCH and status != 200):
            api.metrics.requests.labels(str(status)).inc()

    def refuse(scope: Scope, error: HttpError) -> None:
        if scope["path"] in (_RECOMMEND, _BATCH):
            api.metrics.refusals.labels(error.kind).inc()

    keys = KeyRing(api.settings.keys, api.settings.limits)
    app.add_middleware(
        Guard,
        keys=keys,
        max_body_bytes=api.settings.limits.max_body_bytes,
        body_timeout_s=api.settings.limits.body_timeout_s,
        count=count,
        refuse=refuse,
    )
    app.add_middleware(AccessLog, is_logging=api.settings.limits.log_format == "json")
    app.add_middleware(AtRoot)
    add_error_handlers(app, count, refuse)
    _add_recommend(app, api, keys)

    async def own_figures() -> list[Metric]:
        return api.metrics.families()

    def describe() -> list[dict[str, object]]:
        return [_describe(api, one) for one in api.models]

    add_operations(app, tell_readiness, describe, collect or own_figures)
    if desk is not None:
        add_rollout(app, desk)
    describe_security(app, keys.is_needed)
    return app


def _add_recommend(app: FastAPI, api: Api, keys: KeyRing) -> None:
    statuses: tuple[int, ...] = (401, 404, 408, 413, 421, 422, 429, 500, 503, 504)
    errors: dict[int | str, dict[str, Any]] = {s: {"model": ErrorResponse} for s in statuses}

    async def recommend(body: RecommendRequest, request: Request) -> Response:
        """Recommend one of the candidates.

        With `stream`, server-sent events: `delta` (`side`, `offset`, `text`) for every chunk of
        tokens, then one `result` as without; or one `error`.
        """
        return await api.recommend(body, waited_s=read_waited(request.headers))

    def is_kept(request: Request) -> bool:
        return KEPT.decode() in request.headers  # clients' headers of this name are dropped

    async def put_item(item_id: ItemId, body: ItemBody, request: Request) -> Response:
        """Offer an item of the catalogue from now on, or give it another text."""
        return await api.change_item(item_id, body, is_kept=is_kept(request))

    async def delete_item(item_id: ItemId, request: Request) -> Response:
        """Offer an item of the catalogue no more."""
        return await api.change_item(item_id, None, is_kept=is_kept(request))

    async def add_purchases(user_id: UserId, body: PurchasesBody, request: Request) -> Response:
        """Tell what a user bought: not offered again, and reasoned about in the background."""
        return await api.add_purchases(user_id, body, is_kept=is_kept(request))

    async def recommend_batch(body: BatchRequest, request: Request) -> Response:
        """Answer several requests, each as if it had come alone.

        The status is 200 where each has an answer or an error of its own; what has not the form of
        a request is refused as a whole.
        """
        check_batch(body, api.settings.limits.max_batch_size)
        keys.add(request.scope, len(body.requests) - 1)  # the batch itself was counted as one
        recommend = functools.partial(api.recommend, waited_s=read_waited(request.headers))
        return await answer_batch(body, recommend, api.metrics)

    app.post(_RECOMMEND, response_model=RecommendResponse, responses=errors)(recommend)
    app.post(_BATCH, response_model=BatchResponse, responses=errors)(recommend_batch)
    app.put("/v1/items/{item_id:path}", responses=errors)(put_item)
    app.delete("/v1/items/{item_id:path}", responses=errors)(delete_item)
    app.post("/v1/users/{user_id:path}/purchases", status_code=202, responses=errors)(add_purchases)


def _describe(api: Api, one: Answering) -> dict[str, object]:
    """A model's entry; its domain is what requests for it may name."""
    return {
        "id": one.model.name,
        "version": one.model.version,
        "index": api.shop.index_version,
        "object": "model",
        "owned_by": "msrrec",
        "domain": one.asked_as or one.domain,
        "max_model_len": api.settings.max_model_len,
        "examples": list(one.examples),
    }
