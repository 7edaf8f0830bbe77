"""The teacher behind any OpenAI-compatible API.

Retries are made here and not by the client, so they can be counted and a body that is no chat
completion is retried like a lost connection. What no further call can mend (the key, the balance,
the model's name, an address where nobody listens) is an ``EngineError``; what concerns one call
alone is ``CallFailed``.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from msrrec.config import TeacherConfig
from msrrec.errors import EngineError

_CONNECT_TIMEOUT_S = 10.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0
_TRIES_BEFORE_FIRST_ANSWER = 3
"""Without any answer yet, an address that refuses connections is a wrong one: say so soon."""


class CallFailed(Exception):
    """One call got no answer after all its tries; others may."""


@dataclass(frozen=True)
class Answer:
    """What the API gave back for one prompt; see ``journal.Record``."""

    text: str
    reasoning_content: str | None
    finish_reason: str
    usage: dict[str, Any]
    served_model: str
    latency_s: float
    tries: int


class TeacherClient:
    """Calls to one model at one address, safe for many at once in one event loop."""

    def __init__(self, teacher: TeacherConfig, api_key: str | None) -> None:
        """``teacher.base_url`` must be set; loopback addresses go past any proxy."""
        self._teacher = teacher
        self._has_answered = False
        is_loopback = urlsplit(teacher.base_url).hostname in ("127.0.0.1", "localhost", "::1")
        self._client = openai.AsyncOpenAI(
            base_url=teacher.base_url,
            api_key=api_key or "none",  # local servers want none, the client insists on one
            max_retries=0,
            timeout=openai.Timeout(
                teacher.timeout_s, connect=min(_CONNECT_TIMEOUT_S, teacher.timeout_s)
            ),
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if is_loopback else None,
        )

    async def ask(self, prompt: str, seed: int | None = None) -> Answer:
        """The model's answer to one prompt.

        Args:
            prompt: The user's message.
            seed: Sent where given; not every API allows it.

        Raises:
            EngineError: If no call can succeed.
            CallFailed: If this one did not.
        """
        tries = 0
        while True:
            tries += 1
            begin = time.monotonic()
            try:
                completion = await self._create(prompt, seed)
                answer = _read(completion, time.monotonic() - begin, tries)
            except (openai.APIError, ValueError) as error:
                filtered = _filtered(error, tries)
                if filtered:
                    return filtered
                self._stop_or_fail(error, tries)
                await asyncio.sleep(_delay_s(error, tries))
                continue
            self._has_answered = True
            return answer

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()

    async def _create(self, prompt: str, seed: int | None) -> ChatCompletion:
        return await self._client.chat.completions.create(
            model=self._teacher.model,
            messages=[{"role": "user", "content": prompt}],
            temperature=self._teacher.temperature,
            max_tokens=self._teacher.max_tokens,
            seed=openai.omit if seed is None else seed,
        )

    def _stop_or_fail(self, error: openai.APIError | ValueError, tries: int) -> None:
        """Raise where another try is of no use; return where it may be."""
        where = f"teacher.base_url={self._teacher.base_url}"
        status = getattr(error, "status_code", None)
        said = _first_line(error)
        if status in (401, 403):
            name = self._teacher.api_key_env
            raise EngineError(
                f"{where}: refused the key ({said}); set a valid one in the environment variable "
                f"{name} and run again, answers so far are kept"
            ) from error
        if status == 402 or _code(error) in ("insufficient_quota", "insufficient_balance"):
            raise EngineError(
                f"{where}: the balance is exhausted ({said}); top it up and run again, answers so "
                "far are kept"
            ) from error
        if status == 404:
            raise EngineError(
                f"{where}: no such path or model {self._teacher.model!r} ({said}); check "
                "teacher.base_url, which often ends in /v1, and teacher.model"
            ) from error
        if _is_connection_refused(error) and not self._has_answered:
            enough = min(_TRIES_BEFORE_FIRST_ANSWER, self._teacher.max_retries + 1)
            if tries >= enough or isinstance(error, openai.APITimeoutError):
                raise EngineError(
                    f"{where}: nobody answers there ({said}); check the address, and that the "
                    "server is running"
                ) from error
        elif status is not None and status < 500 and status not in (408, 409, 425, 429):
            raise CallFailed(f"{status}: {said}") from error
        if tries > self._teacher.max_retries:
            raise CallFailed(f"no answer after {tries} tries: {said}") from error


def _read(completion: ChatCompletion, latency_s: float, tries: int) -> Answer:
    """The answer in a response.

    Raises:
        ValueError: If the body is no chat completion, whatever its status says.
    """
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    text = getattr(message, "content", None) or ""
    if not choices or message is None or not isinstance(text, str):
        raise ValueError(f"the body is no chat completion: {str(completion)[:120]!r}")
    usage = getattr(completion, "usage", None)
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    refusal = getattr(message, "refusal", None)
    return Answer(
        text=text,
        reasoning_content=thought or None,
        finish_reason="content_filter" if refusal else (choices[0].finish_reason or ""),
        usage=usage.model_dump(exclude_none=True) if isinstance(usage, CompletionUsage) else {},
        served_model=completion.model or "",
        latency_s=round(latency_s, 4),
        tries=tries,
    )


def _filtered(error: Exception, tries: int) -> Answer | None:
    """Some APIs report a refusal as an error: it is an answer all the same."""
    if _code(error) != "content_filter":
        return None
    return Answer("", None, "content_filter", {}, "", 0.0, tries)


def _code(error: Exception) -> str | None:
    return getattr(error, "code", None)


def _is_connection_refused(error: Exception) -> bool:
    """No connection at all, in contrast to one that broke or was slow to answer."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _first_line(error: Exception) -> str:
    """The error in a few words; a lost connection says why in its cause."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
    lines = str(cause or error).splitlines() or [type(cause or error).__name__]
    return lines[0][:200]


def _delay_s(error: Exception, tries: int) -> float:
    """Exponential with jitter, and no less than the API asks for."""
    delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
    if not isinstance(error, openai.APIStatusError):
        return float(delay_s)
    try:
        asked_s = float(error.response.headers.get("retry-after", 0))
    except ValueError:  # it may be a date
        asked_s = 0.0
    return float(max(delay_s, min(asked_s, _LONGEST_DELAY_S)))
