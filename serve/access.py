"""Gives each request an id, and logs it once it was answered; neither titles nor names of users."""

import logging
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msrrec.log import REQUEST_ID
from serve.proxy import SAFE_ID

logger = logging.getLogger(f"msrrec.{__name__}")


def read_request_id(scope: Scope) -> str:
    """The id that the proxy or the client gave a request; a new one if it could harm a log."""
    given: bytes = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if SAFE_ID.fullmatch(given) else uuid.uuid4().hex


class AccessLog:
    """ASGI middleware: the request's id for all that is logged meanwhile, and a line at its end."""

    def __init__(self, app: ASGIApp, *, is_logging: bool) -> None:
        self.app, self.is_logging = app, is_logging

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500  # a crash becomes a 500 further out

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = REQUEST_ID.set(read_request_id(scope))
        try:
            await self.app(scope, receive, noting_send)
        finally:
            if self.is_logging:
                _log(scope, status, time.monotonic() - began)
            REQUEST_ID.reset(token)


def _log(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None)  # without the ids in a path
    fields = {"method": scope["method"], "route": route, "status": status}
    logger.info("request", extra={"fields": {**fields, "ms": round(seconds * 1000, 1)}})
