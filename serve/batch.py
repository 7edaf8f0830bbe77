"""Several requests in one body: ``POST /v1/recommend:batch``."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi.responses import JSONResponse, Response
from pydantic import Field

from msrrec.config.serve import MAX_BATCH_SIZE
from serve.http_models import (
    ErrorResponse,
    HttpError,
    HttpModel,
    RecommendRequest,
    RecommendResponse,
    internal_error,
    invalid,
)
from serve.metrics import Metrics

logger = logging.getLogger(f"msrrec.{__name__}")


class BatchRequest(HttpModel):
    """Requests that are answered together."""

    requests: list[RecommendRequest] = Field(
        min_length=1, max_length=MAX_BATCH_SIZE, fail_fast=True
    )
    """At most serve.max_batch_size, each as for /v1/recommend but without ``stream``."""


class BatchResponse(HttpModel):
    """The answers in the order of the requests."""

    results: list[RecommendResponse | ErrorResponse]
    """Each what /v1/recommend would have answered: a result, or the body of an error."""


def check_batch(body: BatchRequest, most: int) -> None:
    """Refuse what no batch may hold.

    Raises:
        HttpError: 422 for more than ``most`` requests, or one that asks for a stream.
    """
    found = len(body.requests)
    if found > most:
        raise invalid("requests", f"requests: found {found}; expected at most {most}")
    for n, one in enumerate(body.requests):
        if one.stream:
            field = f"requests[{n}].stream"
            raise invalid(field, f"{field}: found true; a stream must be asked for alone")


async def answer_batch(
    body: BatchRequest,
    recommend: Callable[[RecommendRequest], Awaitable[Response]],
    metrics: Metrics,
) -> Response:
    """All answers, once the last is there.

    Each request is answered as if it had come alone at the same moment: one that is refused, late
    or wrong in its meaning takes nothing from the others.
    """

    def refuse(error: HttpError) -> bytes:
        metrics.requests.labels(str(error.status)).inc()
        metrics.refusals.labels(error.kind).inc()
        return bytes(JSONResponse(error.body()).body)

    async def answer(one: RecommendRequest) -> bytes:
        try:
            response = await recommend(one)
        except HttpError as error:
            return refuse(error)
        except Exception:  # as a request that fails alone takes nothing from others
            logger.exception("a request of a batch failed")
            return refuse(internal_error())
        metrics.requests.labels("200").inc()
        return bytes(response.body)

    results = await asyncio.gather(*map(answer, body.requests))
    return Response(b'{"results":[%s]}' % b",".join(results), media_type="application/json")
