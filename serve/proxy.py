"""What stands before Ray's HTTP proxy in every node's proxy process.

Ray's proxy obeys headers that clients should not decide, answers in plain text or not at all where
a replica is lost, and reflects any request id. Each node loads this by the environment variable
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares``; a Ray that this project
starts has it, and so has the image of the cluster.
"""

import json
import re
from collections.abc import Iterable

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.continued import SentEvents
from serve.http_models import ErrorBody, HttpError
from serve.limits import RETRY_AFTER_S, overloaded, replay

_CONTROLS = frozenset(
    (
        *("x_request_timeout_seconds", "x_request_disconnect_disabled"),
        *("serve_multiplexed_model_id", "x_session_id"),
    )
)
"""Headers by which a client would switch off the time limit, hold an engine after it is gone, or
choose the replica."""
SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""Request ids that can do no harm in a log or a header."""
_REPEATABLE = "/v1/recommend"
_MAX_TRIES = 3
_KINDS = {404: "not_found", 408: "request_timeout", 429: "too_many_requests", 503: "overloaded"}


def middlewares() -> list[Middleware]:
    """Called by Ray in each proxy."""
    return [Middleware(ProxyGuard)]


def safe_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without those that control Ray's proxy, and without strange request ids."""
    return [
        (name, value)
        for name, value in headers
        if name.decode("latin-1").lower().replace("-", "_") not in _CONTROLS
        and (name.lower() != b"x-request-id" or SAFE_ID.fullmatch(value))
    ]


class ProxyGuard:
    """ASGI middleware: strips headers, asks again where a replica is lost, and errors are JSON.

    Answers are seeded, so a second replica gives the same one. What the client has of a stream is
    not sent again; any other answer is asked for again only if nothing of it was sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken: list[Message] = []

        async def take() -> Message:
            taken.append(await receive())
            return taken[-1]

        answer = PassedResponse(send)
        for _ in range(_MAX_TRIES if scope["path"] == _REPEATABLE else 1):
            asked = {**scope, "headers": safe_headers(scope["headers"])}
            await self.app(asked, replay(list(taken), take), answer.pass_on)
            if not answer.is_lost or any(one["type"] == "http.disconnect" for one in taken):
                break
            answer.begin_anew()
        await answer.finish()


class PassedResponse:
    """An answer on its way to the client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._began = False
        self._events: SentEvents | None = None
        self._held: Message | None = None
        self._held_body = b""

    @property
    def is_lost(self) -> bool:
        """Whether the replica was lost before the answer began, or before its stream ended."""
        if self._events is not None:
            return not self._events.is_ended and self._held is None
        return not self._began

    def begin_anew(self) -> None:
        """Say that the messages that follow are those of another replica."""
        self._held, self._held_body = None, b""
        if self._events is not None:
            self._events.begin_anew()

    async def pass_on(self, message: Message) -> None:
        """Send what the client needs of a message, or hold it back if it belongs to an error."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._held is not None:
            self._held_body += message.get("body", b"")
        elif self._events is None:
            await self._send(message)
        elif needed := self._events.take(message.get("body", b"")):
            await self._send({"type": "http.response.body", "body": needed, "more_body": True})

    async def _start(self, message: Message) -> None:
        is_first, self._began = not self._began, True
        kind = dict(message["headers"]).get(b"content-type", b"")
        if message["status"] >= 400 and not (is_first and kind.startswith(b"application/json")):
            self._held = message
            return
        if is_first and kind.startswith(b"text/event-stream"):
            self._events = SentEvents()
            headers = [one for one in message["headers"] if one[0].lower() != b"content-length"]
            message = {**message, "headers": headers}
        if is_first:
            await self._send(message)

    async def finish(self) -> None:
        """Send what is left: an error as JSON, or the end of a stream."""
        if self._events is not None:
            body = b"" if self._events.is_ended else self._events.end_with(self._error_body())
            await self._send({"type": "http.response.body", "body": body})
        elif not self._began:
            await self._send_error(overloaded("the replica was lost; try again shortly"))
        elif self._held is not None:
            await self._send_error(_to_error(self._held))

    def _error_body(self) -> ErrorBody:
        """Why a stream that was broken off did not go on."""
        if self._held is None:
            return overloaded("the replica was lost; ask again").body()
        kind = dict(self._held["headers"]).get(b"content-type", b"")
        if kind.startswith(b"application/json"):
            body: ErrorBody = json.loads(self._held_body)
            return body
        return _to_error(self._held).body()

    async def _send_error(self, error: HttpError) -> None:
        response = JSONResponse(error.body(), error.status, error.headers())
        await response({"type": "http"}, _nothing, self._send)


def _to_error(start: Message) -> HttpError:
    """The documented error for one of Ray's in plain text, whose words are for operators."""
    status = int(start["status"])
    kind = _KINDS.get(status, "internal_error" if status >= 500 else "refused")
    retry_after_s = RETRY_AFTER_S if status in (408, 429, 503) else None
    message = f"the service answered with status {status} before it read the request"
    return HttpError(status, kind, message, retry_after_s=retry_after_s)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
