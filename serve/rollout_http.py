"""The routes of rollouts: what operators ask for, and what they are told."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client.core import Metric
from pydantic import Field

from serve.http_models import ErrorResponse, HttpModel

PATH = "/v1/rollout"


class RolloutRequest(HttpModel):
    """A version to start beside the live one, whose settings it has where none are given."""

    model: str = Field(min_length=1, max_length=4096)
    """Folder made by `msrrec train`, a hub name or any model's folder, as the cluster sees it."""
    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests that it gets once it is ready."""
    adapters: dict[str, str] | None = Field(default=None, max_length=100)
    """Folders of models on the same base, by the domain of the requests that they answer. Unset:
    those of the live version."""
    index: str | None = None
    """Folder made by `msrrec index`. Unset: the one of the live version."""
    recommendations: str | None = None
    """Folder made by `msrrec recommend`. Unset: the one of the live version."""
    settings: tuple[str, ...] = Field(default=(), max_length=100)
    """Settings that differ from those of the live version, such as `inference.seed=2`."""
    start_timeout_s: float = Field(default=3600.0, gt=0)
    """Seconds within which it must be ready; it is removed if it is not."""


class ShareRequest(HttpModel):
    """Another share for the next version."""

    share: float = Field(ge=0, le=1)
    """Share of the requests."""


class VersionState(HttpModel):
    """One version, and how it does since its processes started."""

    model: str
    """The model as it was asked for."""
    name: str | None = None
    """The name in its answers; null until it is ready."""
    version: str | None = None
    """The version in its answers; null until it is ready."""
    state: Literal["ready", "starting"]
    """Whether it can answer."""
    share: float
    """Share of the requests that it gets."""
    requests: int = 0
    """Requests for recommendations that it was asked."""
    errors: int = 0
    """Those of them that ended with a status of 500 or more. Of those of the next version the live
    one was then asked, except past the deadline."""
    p50_s: float | None = None
    """Median seconds from request to whole answer, by the buckets of the metrics."""


class RolloutState(HttpModel):
    """The versions of the service."""

    live: VersionState
    """Answers all requests that the next one does not."""
    next: VersionState | None = None
    """The version that is rolled out."""
    leaving: tuple[str, ...] = ()
    """Models that end their last requests."""
    problem: str | None = None
    """Why the latest rollout ended by itself."""


class Desk(Protocol):
    """Where rollouts are ordered; all methods raise HttpError if they refuse."""

    async def show(self) -> RolloutState:
        """The versions."""

    async def start(self, request: RolloutRequest) -> None:
        """Begin to start another version."""

    async def set_share(self, share: float) -> None:
        """Send another share of the requests to it."""

    async def promote(self) -> None:
        """Make it the live one."""

    async def back(self) -> None:
        """Take it back."""


def add_rollout(app: FastAPI, desk: Desk) -> None:
    """Add the routes to an application."""
    statuses: tuple[int, ...] = (401, 403, 409, 413, 421, 422, 503)
    errors: dict[int | str, dict[str, Any]] = {s: {"model": ErrorResponse} for s in statuses}
    answers: dict[int | str, dict[str, Any]] = {**errors, 202: {"model": RolloutState}}

    async def told() -> Response:
        return JSONResponse((await desk.show()).model_dump(), 202)

    async def show() -> RolloutState:
        """The live version and the next one, their shares, and how they do."""
        return await desk.show()

    async def start(body: RolloutRequest) -> Response:
        """Start another version beside the live one; once it is ready it gets its share."""
        await desk.start(body)
        return await told()

    async def share(body: ShareRequest) -> Response:
        """Send another share of the requests to the next version."""
        await desk.set_share(body.share)
        return await told()

    async def promote() -> Response:
        """Send all requests to the next version; the old one goes once its requests have ended."""
        await desk.promote()
        return await told()

    async def back() -> Response:
        """Send all requests to the live version at once; the next one goes."""
        await desk.back()
        return await told()

    app.get(PATH, response_model=RolloutState, responses=errors)(show)
    app.post(PATH, status_code=202, responses=answers)(start)
    app.patch(PATH, status_code=202, responses=answers)(share)
    app.delete(PATH, status_code=202, responses=answers)(back)
    app.post(f"{PATH}/promote", status_code=202, responses=answers)(promote)


def describe_figures(families: Iterable[Metric]) -> dict[str, Any]:
    """What the metrics of one version's replicas say of it, as fields of ``VersionState``."""
    samples = [sample for family in families for sample in family.samples]
    asked = [one for one in samples if one.name == "msrrec_requests_total"]
    failed = [one for one in asked if one.labels["status"] >= "500"]
    found: dict[str, Any] = {
        "requests": int(sum(one.value for one in asked)),
        "errors": int(sum(one.value for one in failed)),
    }
    buckets: dict[float, float] = {}
    for one in samples:
        if one.name == "msrrec_request_seconds_bucket":
            limit = float(one.labels["le"])
            buckets[limit] = buckets.get(limit, 0.0) + one.value
        elif one.name == "msrrec_model" and not one.labels["domain"]:
            found.update(name=one.labels["name"], version=one.labels["version"])
    return {**found, "p50_s": median(buckets)}


def median(buckets: dict[float, float]) -> float | None:
    """The median of a histogram, spread evenly within its bucket; None without observations.

    Args:
        buckets: Number of observations up to each limit; the last limit is infinite.
    """
    limits = sorted(buckets)
    half = buckets[limits[-1]] / 2 if limits else 0.0
    below = low = 0.0
    for limit in limits:
        if half and buckets[limit] >= half:
            if limit == float("inf"):
                return low
            return low + (limit - low) * (half - below) / (buckets[limit] - below)
        below, low = buckets[limit], limit
    return None
