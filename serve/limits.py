"""Checks before a request is processed: bearer token, body size, admission control."""

import asyncio
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msrrec.config import ServeConfig
from msrrec.errors import ConfigError
from serve.http_models import HttpError

RETRY_AFTER_S = 2
"""Seconds in the Retry-After header of a full service."""

_PROTECTED = ("/v1/", "/metrics")
_ITEMS = "/v1/items/"


def key_digest(api_key_env: str) -> bytes | None:
    """SHA-256 of the API key in an environment variable, or None if it is not set.

    Only the digest is sent through the cluster, not the key.

    Raises:
        ConfigError: If it is set to an empty text, which would look protected but would not be.
    """
    key = os.environ.get(api_key_env)
    if key is None:
        return None
    if not key.strip():
        raise ConfigError(
            f"{api_key_env}: set but empty; expected the service's API key, or unset it to serve "
            "without one"
        )
    return hashlib.sha256(key.strip().encode()).digest()


@dataclass(frozen=True)
class Keys:
    """Digests of the bearer tokens that a service asks for; None where it asks for none.

    Attributes:
        everything: For every protected path.
        items: For changes of the catalogue, in place of the former.
    """

    everything: bytes | None = field(default=None, repr=False)
    items: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(cls, settings: ServeConfig) -> "Keys":
        """The keys in the environment.

        Raises:
            ConfigError: If one is set to an empty text.
        """
        return cls(key_digest(settings.api_key_env), key_digest(settings.admin_key_env))

    def needed(self, path: str) -> bytes | None:
        """The digest of the token that a path needs."""
        if path.startswith(_ITEMS):
            return self.items or self.everything
        return self.everything if path.startswith(_PROTECTED) else None


def _refusal(scope: Scope, keys: Keys) -> HttpError | None:
    """401 if a path needs a bearer token and the request has no valid one."""
    digest = keys.needed(str(scope["path"]))
    if digest is None:
        return None
    header = dict(scope["headers"]).get(b"authorization", b"")
    scheme, _, token = header.partition(b" ")
    given = hashlib.sha256(token.strip()).digest()
    if scheme.lower() == b"bearer" and hmac.compare_digest(given, digest):
        return None
    return HttpError(401, "unauthorized", "a valid bearer token is needed: Authorization: Bearer …")


class Guard:
    """ASGI middleware: 401 before the body is read, 413 before it is parsed.

    The size is counted while the body arrives, so the limit also applies to chunked bodies without
    a length.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        max_body_bytes: int,
        count: Callable[[Scope, int], None],
        refuse: Callable[[Scope, HttpError], None],
    ) -> None:
        self.app, self.keys, self.max_body_bytes = app, keys, max_body_bytes
        self.count, self.refuse = count, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count(scope, message["status"])
            await send(message)

        try:
            refusal = _refusal(scope, self.keys)
            if refusal is not None:
                raise refusal
            messages = await self._read(scope, receive)
        except HttpError as error:
            self.refuse(scope, error)
            response = JSONResponse(error.body(), error.status, error.headers())
            await response(scope, receive, counting_send)
            return
        await self.app(scope, _replay(messages, receive), counting_send)

    async def _read(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of the whole body."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return []
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        messages: list[Message] = []
        while size <= self.max_body_bytes:
            message = await receive()
            messages.append(message)
            size = sum(len(part.get("body", b"")) for part in messages)
            if size <= self.max_body_bytes and not message.get("more_body", False):
                return messages
        raise HttpError(
            413,
            "request_too_large",
            f"the body is over {self.max_body_bytes} bytes; send fewer or shorter titles",
        )


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """A ``receive`` that first returns the messages that were already read."""
    waiting = iter(messages)

    async def replay() -> Message:
        message = next(waiting, None)
        return message if message is not None else await receive()

    return replay


class AdmissionControl:
    """Limits the requests in progress and the requests waiting; refuses more with 503."""

    def __init__(self, max_ongoing: int, max_queued: int) -> None:
        self.max_queued = max_queued
        self.ongoing = 0
        self.queued = 0
        self._places = asyncio.Semaphore(max_ongoing)

    async def enter(self) -> Callable[[], None]:
        """Wait for a place; returns a function that frees it.

        Raises:
            HttpError: 503 with Retry-After if too many requests are waiting.
        """
        if self._places.locked() and self.queued >= self.max_queued:
            raise overloaded()
        with self._waiting():
            await self._places.acquire()
        self.ongoing += 1
        return self._leave

    def _leave(self) -> None:
        self.ongoing -= 1
        self._places.release()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self.queued += 1
        try:
            yield
        finally:
            self.queued -= 1


def overloaded(message: str = "the service is full; try again shortly") -> HttpError:
    """A 503 error with Retry-After."""
    return HttpError(503, "overloaded", message, retry_after_s=RETRY_AFTER_S)
