"""The routes for operators and browsers: the page, the API's description, health and figures."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client.core import Metric

from serve.api_page import render_api_page
from serve.limits import RETRY_AFTER_S
from serve.metrics import CONTENT_TYPE, render
from serve.readiness import Readiness

_PAGE = Path(__file__).parent / "static" / "index.html"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def add_operations(
    app: FastAPI,
    tell_readiness: Callable[[], Awaitable[Readiness]],
    describe: Callable[[], list[dict[str, object]]],
    collect: Callable[[], Awaitable[list[Metric]]],
) -> None:
    """Add the routes to an application.

    Args:
        app: The application.
        tell_readiness: Whether every side has an engine, or can't have one.
        describe: Gives the models that answer, the default one first.
        collect: Gives the metrics.
    """
    page = _PAGE.read_text(encoding="utf-8")
    described = functools.cache(lambda: render_api_page(app.openapi()))

    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    async def docs() -> HTMLResponse:
        return HTMLResponse(described(), headers=_PAGE_HEADERS)

    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    async def readyz() -> JSONResponse:
        """`ready` if every side has an engine; else 503: `starting`, or `broken` if none starts."""
        state = await tell_readiness()
        if state == "ready":
            return JSONResponse({"status": state})
        return JSONResponse({"status": state}, 503, {"Retry-After": str(RETRY_AFTER_S)})

    async def models() -> dict[str, object]:
        """The models that answer: the default one, then the adapters, each with its domain."""
        return {"object": "list", "data": describe()}

    async def metrics() -> Response:
        """Figures of all replicas in Prometheus' text format."""
        return Response(render(await collect()), media_type=CONTENT_TYPE)

    app.get("/", include_in_schema=False)(index)
    app.get("/docs", include_in_schema=False)(docs)
    app.get("/healthz")(healthz)
    app.get("/readyz")(readyz)
    app.head("/healthz", include_in_schema=False)(healthz)  # some load balancers ask so
    app.head("/readyz", include_in_schema=False)(readyz)
    app.get("/v1/models")(models)
    app.get("/metrics", response_class=Response)(metrics)
