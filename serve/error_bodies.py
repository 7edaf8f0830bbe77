"""The documented JSON body for whatever goes wrong on a request."""

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serve.http_models import HttpError, internal_error, invalid


def add_error_handlers(
    app: FastAPI,
    count: Callable[[Scope, int], None],
    refuse: Callable[[Scope, HttpError], None],
) -> None:
    """Give every error of an application the documented body.

    Args:
        app: The application.
        count: Counts a response by its status.
        refuse: Counts a request without an answer by its error.
    """

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HttpError)
        refuse(request.scope, error)
        return JSONResponse(error.body(), error.status, error.headers())

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await on_http_error(request, _from_validation(error))

    async def on_refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:  # FastAPI's status for a body that it can't decode
            return await on_http_error(request, invalid("body", "body: not readable as JSON"))
        kind = str(error.detail).lower().replace(" ", "_")
        message = f"{request.method} {request.url.path}: {error.detail}"
        allow = (error.headers or {}).get("Allow")
        refusal = HttpError(error.status_code, kind, message, allow=allow)
        return await on_http_error(request, refusal)

    async def on_crash(request: Request, error: Exception) -> JSONResponse:
        count(request.scope, 500)  # this response bypasses the counting middleware
        return await on_http_error(request, internal_error())

    app.add_exception_handler(HttpError, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_refused)
    app.add_exception_handler(Exception, on_crash)


def _from_validation(error: RequestValidationError) -> HttpError:
    """422 that names the first invalid field, such as ``candidates[3]``."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return invalid("body", f"body: not JSON at character {first['loc'][-1]} ({reason})")
    parts = first["loc"][1:]
    if not parts:
        return invalid("body", "body: expected a JSON object and Content-Type: application/json")
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")
    name = name[:100]  # keys come from the client and may be long
    return invalid(name, f"{name}: {first['msg']}")
