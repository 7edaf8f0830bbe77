"""One try of one call to an OpenAI-compatible API.

aiohttp sends it and not the openai client, whose own part of a call costs more processor time than
the exchange. ``EngineError``: no call can succeed (wrong key, empty balance, unknown model, wrong
address, a parameter that the model does not take). ``TryAgain``: another try may succeed.
``CallFailed``: this call can't, others may.
"""

import asyncio
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
import httpx2

from msrrec.chat.completions import Completion, read_completion
from msrrec.chat.failures import (
    ApiError,
    CallFailed,
    TryAgain,
    classify,
    error_inside,
    load_json,
    read_error,
    shorten,
)
from msrrec.chat.keys import LOOPBACK
from msrrec.config import ChatConfig
from msrrec.errors import EngineError, first_line

_CONNECT_TIMEOUT_S = 10.0


class ChatClient:
    """Calls to one model at one address, safe for many at once in one event loop."""

    def __init__(
        self,
        section: str,
        config: ChatConfig,
        api_key: str | None,
        timeout_s: float,
        *,
        kept: str = "completions",
    ) -> None:
        """``config.base_url`` must be set; loopback addresses go past any proxy.

        Args:
            section: The section of the settings that errors name, such as ``teacher``.
            config: The address, the model, and how its parameters are called.
            api_key: None where the address wants none.
            timeout_s: One try of one call.
            kept: What errors say is kept for the next run.
        """
        self._section, self._config, self._kept = section, config, kept
        self._where = f"{section}.base_url={config.base_url}"
        self._api_key, self._timeout_s = api_key, timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, prompt: str, parameters: Mapping[str, object]) -> Completion:
        """The model's completion of one prompt.

        Args:
            prompt: The only message, as the user's.
            parameters: Under OpenAI's names; the settings rename, leave out and add.

        Raises:
            EngineError: If no call can succeed.
            TryAgain: If this try did not, and another may.
            CallFailed: If this call can't.
        """
        begin = time.monotonic()
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._config.model, "messages": messages}
        try:
            status, headers, content = await self._post(body | self._config.shape(parameters))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._no_answer(error) from error
        if not 200 <= status < 300:
            return self._refused(read_error(status, headers, content))
        value = load_json(content)
        inside = error_inside(headers, content, value)
        if inside is not None:
            return self._refused(inside)
        return read_completion(value, content, prompt, time.monotonic() - begin)

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, body: Mapping[str, object]) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:  # it belongs to the event loop that it is made in
            self._session = self._connect()
        url = f"{str(self._config.base_url).rstrip('/')}/chat/completions"
        async with (
            asyncio.timeout(self._timeout_s),
            self._session.post(url, json=body, allow_redirects=False) as response,
        ):
            return response.status, response.headers, await response.read()

    def _connect(self) -> aiohttp.ClientSession:
        """The connections; without a key they send a word in its place, which servers ignore."""
        try:
            host = urlsplit(str(self._config.base_url)).hostname
        except ValueError as error:
            raise aiohttp.InvalidURL(str(self._config.base_url)) from error
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=httpx2.create_ssl_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {self._api_key or 'none'}"},
            timeout=aiohttp.ClientTimeout(connect=min(_CONNECT_TIMEOUT_S, self._timeout_s)),
            trust_env=host not in LOOPBACK,  # a proxy can't reach this machine's own servers
        )

    def _no_answer(self, error: BaseException) -> Exception:
        """What a connection without a response means."""
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return EngineError(f"{self._where}: is not an address; expected https://…/v1")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return TryAgain("no connection in time", is_refused=True)
        if isinstance(error, TimeoutError):
            return TryAgain("timed out", is_overloaded=True)
        message = shorten(first_line(error))
        return TryAgain(message, is_refused=isinstance(error, aiohttp.ClientConnectorError))

    def _refused(self, error: ApiError) -> Completion:
        """Raise what an error means; a completion only where a filter refused the prompt."""
        failure = classify(error)
        message = f"{error.status}: {error.message}"
        sentence = self._explain(failure, message)
        if failure == "moderated":
            return Completion("", None, "content_filter", {}, "", 0.0)
        if sentence is not None:
            raise EngineError(f"{self._where}: {sentence}")
        if failure == "call":
            raise CallFailed(message)
        raise TryAgain(
            message,
            wait_s=error.wait_s,
            is_overloaded=failure in ("throttled", "overloaded"),
            is_throttled=failure == "throttled",
        )

    def _explain(self, failure: str, message: str) -> str | None:
        """What is wrong with every call, and what to do; None for a failure of one call."""
        kept = f"{self._kept} so far are kept"
        section, key = self._section, self._config.api_key_env
        return {
            "balance": f"the balance is exhausted ({message}); top it up and run again; {kept}",
            "key": f"refused the key ({message}); set a valid one in the environment variable "
            f"{key or f'that {section}.api_key_env names'} and run again; {kept}",
            "address": f"no such path or model {self._config.model!r} ({message}); check "
            f"{section}.base_url, which often ends in /v1, and {section}.model; {kept}",
            "parameter": f"the model does not take a parameter ({message}); rename it with "
            f"{section}.rename, such as {{max_tokens: max_completion_tokens}}, or leave it out "
            f"with {section}.omit, such as [temperature]; {kept}",
        }.get(failure)
