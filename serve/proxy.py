"""What stands before Ray's HTTP proxy in every node's proxy process.

Ray's proxy obeys headers that clients should not decide, answers in plain text or not at all where
a replica is lost, and reflects any request id. While a version is rolled out, it gets its share of
the requests here. Each node loads this by the environment variable
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares``; a Ray that this project
starts has it, and so has the image of the cluster.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from functools import partial

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.continued import SentEvents
from serve.http_models import ErrorBody, HttpError
from serve.limits import RETRY_AFTER_S, overloaded, replay
from serve.routing import (
    KEPT,
    MAX_KEY_BYTES,
    WAITED,
    Follower,
    Routing,
    Version,
    is_hidden,
    is_routed,
    key_of,
)
from serve.tracing import client_trace

logger = logging.getLogger(f"msrrec.{__name__}")

_CONTROLS = frozenset(
    (
        *("x_request_timeout_seconds", "x_request_disconnect_disabled"),
        *("serve_multiplexed_model_id", "x_session_id"),
        *(one.decode().replace("-", "_") for one in (KEPT, WAITED)),
    )
)
"""Headers by which a client would switch off the time limit, hold an engine after it is gone, or
choose the replica."""
SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""Request ids that can do no harm in a log or a header."""
_REPEATABLE = ("/v1/recommend", "/v1/recommend:batch")
_CHANGES = ("/v1/items/", "/v1/users/")
_MAX_TRIES = 3
_FAILED = (500, 502, 503)
"""Statuses that mean that a version can't answer, while another one may."""
_BODY_S = 10.0
"""Seconds until a body that decides who answers must have come."""
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
    not sent again; any other answer is asked for again only if nothing of it was sent. What the
    next version of a rollout fails to answer, the live one is asked. Changes are told to both.
    """

    def __init__(self, app: ASGIApp, follower: Follower | None = None) -> None:
        self.app = app
        self.follower = follower or Follower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        answer = PassedResponse(send, is_repeatable=_is_repeatable(scope))
        if is_hidden(path):
            await answer.send_error(HttpError(404, "not_found", "no such path"))
            return
        received = _Received(receive)
        routing = await self.follower.current() if is_routed(path) else None
        asked = {**scope, "headers": safe_headers(scope["headers"])}
        with client_trace(asked["headers"]):
            if routing is None:
                await self._ask(asked, received, answer)
            else:
                await self._ask_version(routing, asked, received, answer)
        await answer.finish()
        latest = routing and self.follower.latest
        canary = latest.canary if latest else None
        if canary is not None and answer.is_success and path.startswith(_CHANGES):
            await self._tell(canary, asked, received)

    async def _ask(self, scope: Scope, received: "_Received", answer: "PassedResponse") -> None:
        """Pass a request on, again if its replica is lost and it changes nothing."""
        for _ in range(_MAX_TRIES if _is_repeatable(scope) else 1):
            answer.expect(_never)
            await self.app(received.mark(scope), received.replay(), answer.pass_on)
            if not answer.is_lost or received.has_left:
                return

    async def _ask_version(
        self,
        routing: Routing,
        scope: Scope,
        received: "_Received",
        answer: "PassedResponse",
    ) -> None:
        """Pass a request on to the version that it belongs to, and to the live one after that."""

        def live() -> str:
            return (self.follower.latest or routing).live.prefix

        def is_overtaken(prefix: str) -> bool:
            return prefix != live()

        is_repeatable = _is_repeatable(scope)
        prefix = live()
        if is_repeatable and routing.canary is not None:
            prefix = routing.choose(await _read_key(received.take)).prefix
        for left in reversed(range(_MAX_TRIES)):
            answer.expect(partial(is_overtaken, prefix) if is_repeatable and left else _never)
            asked = received.mark(_under(prefix, scope))
            await self.app(asked, received.replay(), answer.pass_on)
            is_answered = not (answer.is_lost or answer.is_refused)
            if is_answered or received.has_left or not (is_repeatable or answer.is_unknown):
                return
            if answer.is_sent:
                continue  # only the same version goes on with its stream
            if answer.is_unknown:
                await self.follower.look()
            # A state that names an application which is gone must not end the service.
            prefix = "" if prefix == live() and answer.is_unknown else live()

    async def _tell(self, version: Version, scope: Scope, received: "_Received") -> None:
        """Tell the next version of a change that the live one has made."""
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        body = [message for message in received.messages if message["type"] == "http.request"]
        kept = {**scope, "headers": [*scope["headers"], (KEPT, b"1")]}
        await self.app(_under(version.prefix, kept), replay(body, _wait), note)
        if not 200 <= status < 300:
            logger.warning("%s did not take a change (status %d)", version.app, status)


def _never() -> bool:
    return False


def _is_repeatable(scope: Scope) -> bool:
    return scope["path"] in _REPEATABLE


def _under(prefix: str, scope: Scope) -> Scope:
    """A request, as it is asked of the version with a prefix."""
    raw = scope.get("raw_path") or scope["path"].encode()
    return {**scope, "path": prefix + scope["path"], "raw_path": prefix.encode() + raw}


async def _read_key(take: Receive) -> bytes:
    """What decides who answers a request, from its body; of a large one the beginning is enough."""
    parts: list[bytes] = []
    size, is_whole = 0, False
    with contextlib.suppress(TimeoutError):  # the service itself refuses a slow body
        async with asyncio.timeout(_BODY_S):
            while not is_whole and size < MAX_KEY_BYTES:
                message = await take()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                is_whole = not message.get("more_body", False)
    return key_of(b"".join(parts)[:MAX_KEY_BYTES])


class _Received:
    """What a client has sent, for all who are asked for an answer one after the other.

    Attributes:
        messages: All messages of the request.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.messages: list[Message] = []
        self._whole_at: float | None = None

    @property
    def has_left(self) -> bool:
        """Whether the client is gone."""
        return any(one["type"] == "http.disconnect" for one in self.messages)

    async def take(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.messages.append(message)
        if self._whole_at is None and not message.get("more_body", False):
            self._whole_at = asyncio.get_running_loop().time()
        return message

    def replay(self) -> Receive:
        """The request from its beginning."""
        return replay(list(self.messages), self.take)

    def mark(self, scope: Scope) -> Scope:
        """A request as it is asked now: whoever is asked later has less time left."""
        if self._whole_at is None:
            return dict(scope)
        waited_s = asyncio.get_running_loop().time() - self._whole_at
        headers = [*scope["headers"], (WAITED, f"{waited_s:.3f}".encode())]
        return {**scope, "headers": headers}


class PassedResponse:
    """An answer on its way to the client.

    Attributes:
        is_refused: Whether it was held back, as another version is to be asked.
        is_unknown: Whether Ray's proxy knows no such route, so that nobody was asked.
        is_success: Whether its status is one of success.
        is_sent: Whether the client has the beginning of it.
    """

    def __init__(self, send: Send, *, is_repeatable: bool) -> None:
        self._send, self._is_repeatable = send, is_repeatable
        self.is_sent = False
        self._events: SentEvents | None = None
        self.expect(_never)

    def expect(self, may_refuse: Callable[[], bool]) -> None:
        """Begin anew, before a replica is asked.

        Args:
            may_refuse: Whether a failure is held back, as another version will be asked; it is
                called when there is one, as what was live then may be so no more.
        """
        self._may_refuse = may_refuse
        self._began = self.is_refused = self.is_unknown = self.is_success = False
        self._held: Message | None = None
        self._held_body = b""
        if self._events is not None:
            self._events.begin_anew()

    @property
    def is_lost(self) -> bool:
        """Whether the replica was lost before the answer began, or before its stream ended."""
        if self._events is not None:
            return not self._events.is_ended and self._held is None
        return not self._began

    async def pass_on(self, message: Message) -> None:
        """Send what the client needs of a message, or hold it back if it belongs to an error."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._held is not None:
            self._held_body += message.get("body", b"")
        elif self._events is None:
            await self._send(message)
        elif needed := self._events.take(message.get("body", b"")):
            await self._send({"type": "http.response.body", "body": needed, "more_body": True})

    async def _begin(self, message: Message) -> None:
        status = message["status"]
        kind = dict(message["headers"]).get(b"content-type", b"")
        is_plain = not kind.startswith(b"application/json")
        self._began, self.is_success = True, 200 <= status < 300
        if not self.is_sent:
            self.is_unknown = status == 404 and is_plain
            self.is_refused = self.is_unknown or (status in _FAILED and self._may_refuse())
        if self.is_refused or (status >= 400 and (is_plain or self.is_sent)):
            self._held = message
        elif not self.is_sent:
            self.is_sent = True
            if self._is_repeatable and kind.startswith(b"text/event-stream"):
                self._events = SentEvents()
                headers = [one for one in message["headers"] if one[0].lower() != b"content-length"]
                message = {**message, "headers": headers}
            await self._send(message)

    async def finish(self) -> None:
        """Send what is left: an error as JSON, or the end of a stream."""
        if self._events is not None:
            body = b"" if self._events.is_ended else self._events.end_with(self._error_body())
            await self._send({"type": "http.response.body", "body": body})
        elif not self._began:
            await self.send_error(overloaded("the replica was lost; try again shortly"))
        elif self._held is not None:
            await self.send_error(_to_error(self._held))

    def _error_body(self) -> ErrorBody:
        """Why a stream that was broken off did not go on."""
        if self._held is None:
            return overloaded("the replica was lost; ask again").body()
        kind = dict(self._held["headers"]).get(b"content-type", b"")
        if kind.startswith(b"application/json"):
            body: ErrorBody = json.loads(self._held_body)
            return body
        return _to_error(self._held).body()

    async def send_error(self, error: HttpError) -> None:
        """Send an error of the guard's own."""
        response = JSONResponse(error.body(), error.status, error.headers())
        await response({"type": "http"}, _nothing, self._send)


def _to_error(start: Message) -> HttpError:
    """The documented error for one of Ray's in plain text, whose words are for operators."""
    status = int(start["status"])
    kind = _KINDS.get(status, "internal_error" if status >= 500 else "refused")
    retry_after_s = RETRY_AFTER_S if status in (408, 429, 503) else None
    message = f"the service answered with status {status} before it read the request"
    return HttpError(status, kind, message, retry_after_s=retry_after_s)


async def _wait() -> Message:
    """What a client sends who stays until the answer is there."""
    await asyncio.get_running_loop().create_future()
    return await _nothing()


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
