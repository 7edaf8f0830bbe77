"""Checks before a request is read: bearer token and body size."""

import asyncio
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http_models import HttpError
from serve.keys import KeyRing

RETRY_AFTER_S = 2
"""Seconds in the Retry-After header where nothing was measured."""


class Guard:
    """ASGI middleware: 401 and 429 before the body is read, 408 and 413 before it is parsed.

    The size is counted while the body arrives, so the limit also applies to chunked bodies without
    a length.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        max_body_bytes: int,
        body_timeout_s: float,
        count: Callable[[Scope, int], None],
        refuse: Callable[[Scope, HttpError], None],
    ) -> None:
        self.app, self.keys, self.count, self.refuse = app, keys, count, refuse
        self.max_body_bytes, self.body_timeout_s = max_body_bytes, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count(scope, message["status"])
            await send(message)

        try:
            self.keys.check(scope)
            messages = await self._read_in_time(scope, receive)
        except HttpError as error:
            self.refuse(scope, error)
            response = JSONResponse(error.body(), error.status, error.headers())
            await response(scope, receive, counting_send)
            return
        await self.app(scope, replay(messages, receive), counting_send)

    async def _read_in_time(self, scope: Scope, receive: Receive) -> list[Message]:
        try:
            async with asyncio.timeout(self.body_timeout_s):
                return await self._read(scope, receive)
        except TimeoutError as error:
            message = f"the body was not whole after {self.body_timeout_s:g} s; send it faster"
            raise HttpError(408, "request_timeout", message, retry_after_s=RETRY_AFTER_S) from error

    async def _read(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of the whole body; where none is expected, strangers may send one."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or not scope["path"].startswith("/v1/"):
            return []
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        messages: list[Message] = []
        received = 0
        while size <= self.max_body_bytes:
            message = await receive()
            messages.append(message)
            received += len(message.get("body", b""))
            size = received
            if size <= self.max_body_bytes and not message.get("more_body", False):
                return messages
        raise HttpError(
            413,
            "request_too_large",
            f"the body is over {self.max_body_bytes} bytes; send fewer or shorter titles",
        )


def replay(messages: list[Message], receive: Receive) -> Receive:
    """A ``receive`` that first returns the messages that were already read."""
    waiting = iter(messages)

    async def replay() -> Message:
        message = next(waiting, None)
        return message if message is not None else await receive()

    return replay


def overloaded(
    message: str = "the service is full; try again shortly", retry_after_s: int = RETRY_AFTER_S
) -> HttpError:
    """A 503 error with Retry-After."""
    return HttpError(503, "overloaded", message, retry_after_s=retry_after_s)
