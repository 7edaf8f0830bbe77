"""API keys: who may ask, and how often."""

import hashlib
import hmac
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import Scope

from msrrec.config import ServeConfig
from msrrec.errors import ConfigError
from serve.http_models import HttpError
from serve.quotas import Quotas

logger = logging.getLogger(f"msrrec.{__name__}")

_PROTECTED = ("/v1/", "/metrics")
_ITEMS = "/v1/items/"
_ROLLOUT = "/v1/rollout"
_NEEDS_ADMIN = (
    "this service has no admin key, and so its model can't be changed while it runs; its operator "
    "sets MSRREC_ADMIN_KEY"
)
_LOOK_EVERY_S = 1.0
"""Seconds between looks at the file of keys."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Keys:
    """SHA-256 digests of the bearer tokens that a service asks for; empty where it asks for none.

    Only digests are sent through the cluster.

    Attributes:
        everything: Any of these opens every protected path.
        admin: Any of these opens changes of the catalogue, in place of the former, and rollouts.
        file: File of further keys for everything, which is read again when it changes.
        is_open: Whether to listen beyond this machine without a key.
    """

    everything: tuple[bytes, ...] = field(default=(), repr=False)
    admin: tuple[bytes, ...] = field(default=(), repr=False)
    file: str | None = None
    is_open: bool = False

    @classmethod
    def read(cls, settings: ServeConfig) -> "Keys":
        """The keys in the environment and in the file.

        Raises:
            ConfigError: If one is set but empty.
        """
        file = str(Path(settings.api_keys_file).absolute()) if settings.api_keys_file else None
        if file is not None:
            read_file(file)
        return cls(
            read_variable(settings.api_key_env),
            read_variable(settings.admin_key_env),
            file,
            settings.listen_without_key,
        )

    def check_host(self, host: str) -> None:
        """Refuse to listen beyond this machine without a key.

        Raises:
            ConfigError: If that was not asked for.
        """
        if self.everything or self.file or self.is_open or is_loopback(host):
            return
        raise ConfigError(
            f"serve.host={host}: would answer other machines, but there is no API key; expected "
            "one in MSRREC_API_KEY or serve.api_keys_file; set it, or "
            "serve.listen_without_key=true"
        )


def read_variable(name: str) -> tuple[bytes, ...]:
    """Digests of the keys in an environment variable, separated by commas; empty if it is not set.

    Raises:
        ConfigError: If it holds no key, which would look protected but would not be.
    """
    value = os.environ.get(name)
    if value is None:
        return ()
    found = _digests(value.split(","))
    if not found:
        raise ConfigError(
            f"{name}: set but empty; expected the service's API key, or unset it to serve "
            "without one"
        )
    return found


def read_file(path: str) -> tuple[bytes, ...]:
    """Digests of the keys in a file, one a line; lines that begin with # are comments.

    Raises:
        ConfigError: If it can't be read or holds no key.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.api_keys_file={path}: can't be read ({error})") from error
    found = _digests(line for line in lines if not line.lstrip().startswith("#"))
    if not found:
        raise ConfigError(f"serve.api_keys_file={path}: found no key; expected one a line")
    return found


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own; names other than ``localhost`` are not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digests(keys: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(k.strip().encode()).digest() for k in keys if k.strip())


class KeyRing:
    """Checks the keys of requests, and how often each is used."""

    def __init__(
        self,
        keys: Keys,
        settings: ServeConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._clock = keys, clock
        self._quotas = Quotas(settings)
        self._from_file = read_file(keys.file) if keys.file else ()
        self._looked, self._changed = -_LOOK_EVERY_S, _changed(keys.file)

    def check(self, scope: Scope) -> None:
        """Refuse a request without a valid key, or beyond the key's rate.

        Raises:
            HttpError: 401, 403, 421, or 429 with Retry-After.
        """
        path = str(scope["path"])
        allowed = self._allowed(path)
        if not allowed:
            is_rollout = path.startswith(_ROLLOUT)
            if is_rollout and self._has_keys:
                raise HttpError(403, "forbidden", _NEEDS_ADMIN)
            if is_rollout or (path.startswith(_PROTECTED) and not self._keys.is_open):
                _refuse_from_outside(scope)
                _refuse_other_names(scope)
            if path.startswith(_PROTECTED):
                _refuse_other_sites(scope)
            return
        scheme, given = _read_header(scope)
        # With all of them, so that the time that it takes tells nothing.
        matches = [hmac.compare_digest(given, digest) for digest in allowed]
        if scheme.lower() != b"bearer" or not any(matches):
            message = "a valid bearer token is needed: Authorization: Bearer …"
            raise HttpError(401, "unauthorized", message)
        if scope["method"] == "POST":
            self._quotas.count(given)

    def add(self, scope: Scope, number: int) -> None:
        """Count further requests that came in one that was checked."""
        if self._allowed(str(scope["path"])):
            self._quotas.add(_read_header(scope)[1], number)

    def is_needed(self, path: str) -> bool:
        """Whether a path needs a bearer token."""
        return bool(self._allowed(path))

    def _allowed(self, path: str) -> tuple[bytes, ...]:
        """The digests of the tokens that open a path; empty if it needs none."""
        if not path.startswith(_PROTECTED):
            return ()
        if path.startswith(_ROLLOUT) or (path.startswith(_ITEMS) and self._keys.admin):
            return self._keys.admin
        return (*self._keys.everything, *self._file_keys())

    @property
    def _has_keys(self) -> bool:
        return bool(self._keys.everything or self._keys.file)

    def _file_keys(self) -> tuple[bytes, ...]:
        """The keys of the file as of a second ago; those of before if it can't be read."""
        path, now = self._keys.file, self._clock()
        if path is not None and now - self._looked >= _LOOK_EVERY_S:
            self._looked, before, self._changed = now, self._changed, _changed(path)
            if self._changed != before:
                try:
                    self._from_file = read_file(path)
                    logger.info("%d API keys read anew", len(self._from_file))
                except ConfigError as error:
                    logger.warning("%s; the keys of before stay valid", error)
        return self._from_file


def _read_header(scope: Scope) -> tuple[bytes, bytes]:
    """The scheme of a request's authorization, and the digest of its token."""
    header = dict(scope["headers"]).get(b"authorization", b"")
    scheme, _, token = header.partition(b" ")
    return scheme, hashlib.sha256(token.strip()).digest()


def _changed(path: str | None) -> tuple[int, int, int] | None:
    """What differs once a file has changed; None if there is none."""
    try:
        found = os.stat(path) if path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _refuse_from_outside(scope: Scope) -> None:
    """Refuse a connection that came in from beyond this machine, as there is no key.

    Serve's configuration files choose the host without this project's knowledge, so the address of
    each connection is looked at.
    """
    address = _find_address(scope)
    if address is not None and not address.is_loopback:
        message = (
            "this service has no API key and so answers its own machine alone; its operator sets "
            "MSRREC_API_KEY, or serve.listen_without_key"
        )
        raise HttpError(401, "unauthorized", message)


def _find_address(scope: Scope) -> _Address | None:
    """The address of this machine that a connection came in by; None for a socket's path."""
    return _read_address((scope.get("server") or ("localhost",))[0])


def _read_address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _refuse_other_names(scope: Scope) -> None:
    """Refuse a request for a name that is not this machine's own, as there is no key.

    A page of another site may have the address of its own name changed to this machine's. A browser
    then takes the answers for its site's own, and only the name tells them apart.
    """
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().rstrip(".")  # a name that ends with a dot is the same
    is_own = name in ("", "localhost") or _read_address(name) is not None
    if not is_own and _find_address(scope) is not None:
        message = (
            f"this service has no API key and so answers no requests for {host[:80]!r}; ask for "
            "localhost or 127.0.0.1; its operator may set MSRREC_API_KEY, or "
            "serve.listen_without_key"
        )
        raise HttpError(421, "misdirected", message)


def _refuse_other_sites(scope: Scope) -> None:
    """Refuse what a page of another site has a browser send, as there is no key that it lacks.

    A browser says where a request comes from. Other clients say nothing.
    """
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):  # a page can't read the answers to them
        return
    headers = dict(scope["headers"])
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        is_other = site not in (b"same-origin", b"none")
    else:
        is_other = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    if is_other:
        message = "this service has no API key and so answers no pages of other sites"
        raise HttpError(401, "unauthorized", message)
