"""API keys: which one an address takes, and the refusal where it is missing.

Keys are read from the environment of the process that runs a command: on a cluster that is the
head, where jobs run. They reach the workers as arguments, and no log, record or job's metadata.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from msrrec.config import ChatConfig
from msrrec.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def find_key(config: ChatConfig, keys: Mapping[str, str]) -> str | None:
    """The key of an address; None if it takes none or there is none.

    Args:
        config: The address.
        keys: Keys by the names of their environment variables.
    """
    return keys.get(config.api_key_env) if config.api_key_env else None


def require_key(section: str, config: ChatConfig, key: str | None) -> None:
    """Refuse an address that takes a key without one, before the first call.

    Servers on this machine, and those with ``api_key_env=null``, take none.

    Args:
        section: The section of the settings that names the address, such as ``teacher``.
        config: The address.
        key: Its key.

    Raises:
        ConfigError: If the key is missing.
    """
    if key or not config.api_key_env or config.base_url is None or is_loopback(config.base_url):
        return
    raise ConfigError(
        f"{section}.base_url={_without_password(config.base_url)}: found no API key; expected one "
        f"in the environment variable {config.api_key_env}; set it where this command runs (on a "
        f"cluster: on the head), or {section}.api_key_env=null where the server takes none"
    )


def is_loopback(base_url: str) -> bool:
    """Whether an address is on this machine; an address that can't be read is not."""
    try:
        return urlsplit(base_url).hostname in LOOPBACK
    except ValueError:
        return False


def _without_password(base_url: str) -> str:
    """The address without what stands before an @, which may be a password."""
    scheme, separator, rest = base_url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
