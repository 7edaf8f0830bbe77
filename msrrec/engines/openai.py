"""A client for teachers behind OpenAI-compatible APIs: it makes one try of one call.

It is the openai client on aiohttp's connections, which halve its CPU time per call, and without its
own retries. ``EngineError``: no call can succeed (wrong key, empty balance, unknown model, wrong
address). ``TryAgain``: another try may succeed. ``CallFailed``: this call can't succeed, others
may.
"""

import asyncio
import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from msrrec.config import EndpointConfig
from msrrec.errors import EngineError, first_line

_CONNECT_TIMEOUT_S = 10.0
_OVERLOADED = (408, 429, 503, 529)
_TRY_AGAIN = (*_OVERLOADED, 409, 425)
_CHARS_PER_TOKEN = 4
_NO_BALANCE = re.compile(
    r"insufficient[_ ](?:quota|balance|funds|credits?)|credit balance|exceeded your current quota|"
    r"billing[_ ](?:hard|not)|payment required",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class CallFailed(Exception):
    """One call got no completion and never will; other calls may succeed."""


class TryAgain(Exception):
    """One try got no completion; another try may succeed.

    Attributes:
        wait_s: Seconds that the teacher asked to wait; 0 if it named none.
        is_overloaded: Whether fewer concurrent calls would help.
        is_throttled: Whether the teacher only limits the number of calls (429).
        is_refused: Whether no server listens at the address.
    """

    def __init__(
        self,
        message: str,
        *,
        wait_s: float = 0.0,
        is_overloaded: bool = False,
        is_throttled: bool = False,
        is_refused: bool = False,
    ) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.is_overloaded, self.is_throttled = is_overloaded, is_throttled
        self.is_refused = is_refused


Usage = dict[str, Any]
"""Token counts as the API reports them, under its names, and the price if it reports one."""


@dataclass(frozen=True)
class Completion:
    """A teacher's completion of one prompt; see ``synthesis.journal.JournalEntry``."""

    text: str
    reasoning_content: str | None
    finish_reason: str
    usage: Usage
    served_model: str
    latency_s: float


def estimate_tokens(text: str) -> int:
    """Estimated tokens of a text whose tokens are not reported: one per four bytes."""
    return len(text.encode("utf-8", "replace")) // _CHARS_PER_TOKEN + 1


class TeacherClient:
    """Calls to one model at one address; many may run at once in one event loop."""

    def __init__(
        self,
        endpoint: EndpointConfig,
        api_key: str | None,
        timeout_s: float,
        *,
        sends_seed: bool = False,
    ) -> None:
        """``endpoint.base_url`` must be set; loopback addresses go past any proxy.

        With ``sends_seed`` the attempt goes along as seed, which not every API allows.
        """
        self._endpoint = endpoint
        self._where = f"teacher.base_url={endpoint.base_url}"
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._sends_seed = sends_seed
        self._client: openai.AsyncOpenAI | None = None

    async def complete(self, prompt: str, attempt: int = 0) -> Completion:
        """The model's completion of one prompt.

        Raises:
            EngineError: If no call can succeed.
            TryAgain: If this try failed, but another may succeed.
            CallFailed: If this call can't succeed.
        """
        begin = time.monotonic()
        try:
            status, headers, body = await self._post(prompt, attempt)
        except TimeoutError as error:
            raise TryAgain("timed out", is_overloaded=True) from error
        except openai.APIConnectionError as error:
            raise self._no_answer(error.__cause__ or error) from error
        except aiohttp.ClientError as error:  # such as a response that is not HTTP
            raise TryAgain(_short(first_line(error))) from error
        if status == 200:
            return read_completion(body, prompt, time.monotonic() - begin)
        return self.read_refusal(status, headers, body)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _post(self, prompt: str, attempt: int) -> tuple[int, httpx2.Headers, bytes]:
        if self._client is None:  # created here, as it belongs to the running event loop
            self._client = self._connect()
        async with asyncio.timeout(self._timeout_s):  # the client's restarts with every byte
            try:
                # the same as chat.completions.create, without its slow checks
                response = await self._client.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    body=self.request_body(prompt, attempt),
                )
            except openai.APIStatusError as error:
                response = error.response
        return response.status_code, response.headers, response.content

    def request_body(self, prompt: str, attempt: int) -> Mapping[str, object]:
        """What is posted for one try of one call."""
        return {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._endpoint.temperature,
            "max_tokens": self._endpoint.max_tokens,
            **({"seed": attempt} if self._sends_seed else {}),
        }

    def _connect(self) -> openai.AsyncOpenAI:
        """The client; without a key it sends a placeholder, which keyless servers ignore."""
        url = str(self._endpoint.base_url)
        return openai.AsyncOpenAI(
            base_url=url,
            api_key=self._api_key or "none",
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=None),
                timeout=httpx2.Timeout(
                    self._timeout_s, connect=min(_CONNECT_TIMEOUT_S, self._timeout_s)
                ),
                trust_env=urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
                follow_redirects=False,
            ),
        )

    def _no_answer(self, cause: BaseException) -> Exception:
        """The error for a connection without a response."""
        if isinstance(cause, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
            return EngineError(f"{self._where}: is not an address; expected https://…/v1")
        if isinstance(cause, httpx2.ConnectTimeout):
            return TryAgain("no connection in time", is_refused=True)
        if isinstance(cause, httpx2.TimeoutException):
            return TryAgain("timed out", is_overloaded=True)
        message = _short(first_line(cause))
        return TryAgain(message, is_refused=isinstance(cause, httpx2.ConnectError))

    def read_refusal(self, status: int, headers: Any, body: bytes) -> Completion:
        """Raise the error for a status other than 200; a completion if a filter refused."""
        message, code = _read_error(body)
        message = f"{status}: {message}"
        if code == "content_filter":  # some APIs report a refusal as an error
            return Completion("", None, "content_filter", {}, "", 0.0)
        if status == 402 or (400 <= status < 500 and _NO_BALANCE.search(f"{code} {message}")):
            raise EngineError(
                f"{self._where}: the balance is exhausted ({message}); top it up and run "
                "again; completions so far are kept"
            )
        if status in (401, 403):
            raise EngineError(
                f"{self._where}: refused the key ({message}); set a valid one in the environment "
                f"variable {self._endpoint.api_key_env} and run again; completions so far are kept"
            )
        if status == 404 or 300 <= status < 400:
            raise EngineError(
                f"{self._where}: no such path or model {self._endpoint.model!r} ({message}); check "
                "teacher.base_url, which often ends in /v1, and teacher.model"
            )
        if status < 500 and status not in _TRY_AGAIN:
            raise CallFailed(message)
        raise TryAgain(
            message,
            wait_s=retry_after_s(headers),
            is_overloaded=status in _OVERLOADED,
            is_throttled=status in (429, 529),
        )


def read_completion(body: bytes, prompt: str, latency_s: float) -> Completion:
    """The completion in a response body.

    Raises:
        TryAgain: If the body is not a chat completion, even with status 200.
    """
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise TryAgain(f"the body is no chat completion: {_excerpt(body)}") from error
    text = _join_parts(content)
    if text is None or choice.get("finish_reason") == "error":
        raise TryAgain(f"the body is no chat completion: {_excerpt(body)}")
    thought = message.get("reasoning_content") or message.get("reasoning")
    thought = _clean(thought) if isinstance(thought, str) else None
    return Completion(
        text=text,
        reasoning_content=thought or None,
        finish_reason="content_filter"
        if message.get("refusal")
        else str(choice.get("finish_reason") or ""),
        usage=_read_usage(completion.get("usage"), prompt, text + (thought or "")),
        served_model=_clean(str(completion.get("model") or "")),
        latency_s=round(latency_s, 4),
    )


def _join_parts(content: Any) -> str | None:
    """The text of a message, in one piece or in parts; None for anything else."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(str(p.get("text") or "") for p in content if p.get("type") == "text")
    return _clean(content) if isinstance(content, str) else None


def _clean(text: str) -> str:
    """The text without lone surrogates, which JSON can contain and UTF-8 can't."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _read_usage(usage: Any, prompt: str, written: str) -> Usage:
    """Token counts as the API reports them; else estimates, which are marked as such."""
    found = {k: v for k, v in usage.items() if v is not None} if isinstance(usage, dict) else {}
    counts = {"prompt_tokens": prompt, "completion_tokens": written}
    for name, text in counts.items():
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            found |= {name: estimate_tokens(text), "is_estimated": True}
    return found


def _read_error(body: bytes) -> tuple[str, str]:
    """A short message from an error body, and its code."""
    try:
        row = json.loads(body)
        error = row.get("error", row)
        if not isinstance(error, dict):
            return _short(str(error)), ""
        message = error.get("message") or _excerpt(body)
        return _short(str(message)), str(error.get("code") or error.get("type") or "")
    except (ValueError, AttributeError, RecursionError):
        return _excerpt(body), ""


def _excerpt(body: bytes) -> str:
    return repr(body[:120].decode("utf-8", "replace"))


def _short(text: str) -> str:
    return _clean(next(iter(text.splitlines()), ""))[:200]


def retry_after_s(headers: Any) -> float:
    """Seconds that the API asks to wait, given as a number or a date; 0 if it names none."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
