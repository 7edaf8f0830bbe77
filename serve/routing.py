"""Which version of the model answers a request: the state of a rollout, as every proxy reads it.

The state is one small value in the store of Ray's control service, where Serve keeps its own: it
outlives every proxy and replica, and the head too where that has a Redis.
"""

import asyncio
import contextvars
import hashlib
import json
import logging
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(f"msrrec.{__name__}")

HIDDEN = "/.msrrec"
"""Prefix of the routes of all versions but the first; clients get 404 for it."""
LOOK_EVERY_S = 0.5
"""Seconds between a proxy's looks at the state."""
_PATHS = frozenset(("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"))
MAX_KEY_BYTES = 262_144
"""Bytes of a request, at most, that decide who answers it."""
KEPT = b"x-msrrec-kept"
"""Header by which the guard tells the next version that the live one has kept a change."""
WAITED = b"x-msrrec-waited"
"""Header by which the guard tells a replica how many seconds a request has waited for others."""
_MAX_WAITED_S = 86_400.0
_FIRST_S = 5.0
_KEY, _NAMESPACE = b"routing", b"msrrec"


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Version(_State):
    """A Serve application that answers with one model and one set of settings."""

    app: str
    """Its name in Serve."""
    prefix: str
    """Its route; empty for the root, where a service begins."""
    model: str
    """The model as it was asked for: a folder or a hub's name."""
    drain_s: float
    """Seconds that its requests may take to end."""
    left: float = 0.0
    """When requests ceased to be sent to it, in seconds since 1970; 0 before."""


class Routing(_State):
    """Who answers: the live version, and the share of requests that the next one gets."""

    base: Version
    """The version that the service was started or deployed with, which may be gone."""
    live: Version
    """Answers all requests that the next one does not."""
    next: Version | None = None
    """The version that is rolled out."""
    share: float = 0.0
    """Share of the requests that the next one gets once it is ready, from 0 to 1."""
    is_ready: bool = False
    """Whether the next one can answer."""
    began: float = 0.0
    """When the next version was asked for, in seconds since 1970."""
    limit_s: float = 0.0
    """Seconds within which it must be ready; it is removed if it is not."""
    leaving: tuple[Version, ...] = ()
    """Versions that get no more requests, and are removed once theirs have ended."""
    number: int = 0
    """Number of the latest version that was rolled out."""
    problem: str | None = None
    """Why the latest rollout ended by itself."""

    @property
    def canary(self) -> Version | None:
        """The next version, if it gets any requests."""
        return self.next if self.is_ready and self.share > 0 else None

    @property
    def answering(self) -> tuple[Version, ...]:
        """The versions that answer: the live one, and a next one that is ready."""
        return (self.live, self.next) if self.next and self.is_ready else (self.live,)

    def choose(self, key: bytes) -> Version:
        """The version for a request; equal keys get the same one while the share stays.

        A larger share keeps all that a smaller one sent to the next version, and another rollout
        begins with other keys.
        """
        canary = self.canary
        if canary is None:
            return self.live
        digest = hashlib.sha256(f"{self.began} ".encode() + key).digest()
        return canary if int.from_bytes(digest[:8]) < self.share * 2**64 else self.live


def key_of(body: bytes) -> bytes:
    """What decides who answers: the user that a request names, else the whole request."""
    if b'"user_id"' in body:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return body
        if isinstance(found, dict) and isinstance(user := found.get("user_id"), str):
            return user.encode("utf-8", "surrogatepass")
    return body


def read_waited(headers: Mapping[str, str]) -> float:
    """The seconds that a request has waited for other replicas; 0 where the guard tells none."""
    try:
        found = float(headers.get(WAITED.decode(), "0"))
    except ValueError:
        return 0.0
    return min(found, _MAX_WAITED_S) if found > 0 else 0.0


def is_routed(path: str) -> bool:
    """Whether a path is one of the service's; other applications of a cluster have other paths."""
    return path in _PATHS or path.startswith("/v1/")


def is_hidden(path: str) -> bool:
    """Whether a path is one that only the guard before the proxy may ask."""
    return path == HIDDEN or path.startswith(f"{HIDDEN}/")


def read_routing() -> Routing | None:
    """The state of the cluster's service; None where nothing was ever rolled out.

    Raises:
        RayError: If the control service does not answer.
    """
    from ray.experimental import internal_kv

    if internal_kv.internal_kv_get_gcs_client() is None:  # Ray does not run
        return None
    found = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)
    return Routing.model_validate_json(found) if found else None


def write_routing(routing: Routing | None) -> None:
    """Keep the state, or forget it; every proxy knows of it within a second."""
    from ray.experimental import internal_kv

    if routing is None:
        internal_kv._internal_kv_del(_KEY, namespace=_NAMESPACE)
    else:
        value = routing.model_dump_json()
        internal_kv._internal_kv_put(_KEY, value, namespace=_NAMESPACE)


class AtRoot:
    """ASGI middleware: a version under a hidden prefix sees the paths that clients asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = scope.get("root_path", "")
        if scope["type"] == "http" and is_hidden(prefix):
            # Changed in place, as errors are counted further out by the same paths.
            scope["path"] = scope["path"].removeprefix(prefix) or "/"
            scope["raw_path"] = scope["path"].encode()
            scope["root_path"] = ""
        await self.app(scope, receive, send)


class Follower:
    """The state as of half a second ago, so that no request waits for it.

    Attributes:
        latest: The state; that of before while it can't be read.
    """

    def __init__(self, read: Callable[[], Routing | None] = read_routing) -> None:
        self.latest: Routing | None = None
        self._read = read
        self._may_go_on = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def current(self) -> Routing | None:
        """The state; the first calls wait until it was read, for some seconds at most."""
        if self._task is None or self._task.done():
            work = self._follow()  # not cancelled with the request that begins it
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(work, context=contextvars.Context())
        if not self._may_go_on.is_set():
            try:
                await asyncio.wait_for(self._may_go_on.wait(), _FIRST_S)
            except TimeoutError:
                logger.warning("the state of rollouts can't be read; the first version answers")
                self._may_go_on.set()  # nobody else waits for it
        return self.latest

    async def look(self) -> None:
        """Read the state now."""
        from ray.exceptions import RayError

        try:
            self.latest = await asyncio.to_thread(self._read)
        except (RayError, ValueError) as error:
            logger.warning("the state of rollouts can't be read (%s); it stays as it was", error)
            return
        self._may_go_on.set()

    async def _follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)
