"""The completion in a response, whatever shape its provider gives it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msrrec.chat.failures import TryAgain, clean, excerpt

_CHARS_PER_TOKEN = 4
_SAID = (None, "text", "output_text")
"""Types of the parts of a message that were said; all others were thought, or are no text."""
_THOUGHT_FIELDS = (
    *("reasoning_content", "reasoning", "thinking", "reasoning_details"),
    "thinking_blocks",
)

Usage = dict[str, Any]
"""Token counts as an API gives them, and its price where it names one, under the API's names."""


@dataclass(frozen=True)
class Completion:
    """What a model behind an API gave back for one prompt.

    Attributes:
        reasoning_content: What it thought apart from the text; None where it did not.
        finish_reason: As the API says; ``content_filter`` where it refused, else empty.
        latency_s: Seconds of the try that gave it.
    """

    text: str
    reasoning_content: str | None
    finish_reason: str
    usage: Usage
    served_model: str
    latency_s: float


def estimate_tokens(text: str) -> int:
    """Tokens of a text where nobody has counted: one for four bytes, as in English."""
    return len(text.encode("utf-8", "replace")) // _CHARS_PER_TOKEN + 1


def read_completion(value: Any, body: bytes, prompt: str, latency_s: float) -> Completion:
    """The completion in the JSON value of a response.

    Args:
        value: What the body holds.
        body: For the message of an error.
        prompt: What was asked, for an estimate of tokens that nobody counted.
        latency_s: Seconds that the try took.

    Raises:
        TryAgain: If the value is no chat completion.
    """
    try:
        choice = value["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _no_completion(body) from error
    text = _join_parts(content)
    finish_reason = choice.get("finish_reason")
    if text is None or finish_reason == "error":
        raise _no_completion(body)
    thought = clean("\n".join(filter(None, _iter_thoughts(message))))
    return Completion(
        text=text,
        reasoning_content=thought or None,
        finish_reason="content_filter"
        if message.get("refusal") or _is_refused(content)
        else clean(str(finish_reason or "")),
        usage=_read_usage(value.get("usage"), prompt, text + thought),
        served_model=clean(str(value.get("model") or "")),
        latency_s=round(latency_s, 4),
    )


def _no_completion(body: bytes) -> TryAgain:
    return TryAgain(f"the body is no chat completion: {excerpt(body)}", is_unreadable=True)


def _join_parts(content: Any) -> str | None:
    """What a message said, in one piece, in parts or not at all; None for anything else."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        said = [part for part in content if _is_said(part)]
        content = "".join(part["text"] for part in said if isinstance(part.get("text"), str))
    return clean(content) if isinstance(content, str) else None


def _is_refused(content: Any) -> bool:
    """Whether a part of a message is a refusal."""
    parts = content if isinstance(content, list) else []
    return any(part.get("type") == "refusal" for part in parts if isinstance(part, dict))


def _is_said(part: dict[str, Any]) -> bool:
    return part.get("type") in _SAID and part.get("thought") is not True


def _iter_thoughts(message: dict[str, Any]) -> Iterator[str]:
    """What the model thought: the first of the fields that holds text, and parts of the content."""
    fields = (_join_texts(message.get(name)) for name in _THOUGHT_FIELDS)
    yield next(filter(None, fields), "")
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if not _is_said(part) and part.get("type") != "refusal":
            yield _join_texts([part])


def _join_texts(value: Any) -> str:
    """A text, or those of a part or of a list of parts; empty for anything else."""
    if isinstance(value, str):
        return value
    parts: Sequence[Any] = value if isinstance(value, list) else [value]
    texts = []
    for part in parts:
        if isinstance(part, dict):
            inner = part.get("text") or part.get("thinking") or part.get("summary")
            inner = inner or part.get("content")
            if isinstance(inner, list):
                inner = "".join(str(p.get("text") or "") for p in inner if isinstance(p, dict))
            texts += [inner] if isinstance(inner, str) else []
    return "".join(texts)


def _read_usage(usage: Any, prompt: str, written: str) -> Usage:
    """Token counts as the API gave them; estimates, marked so, where it gave none."""
    found = {k: v for k, v in usage.items() if _is_known(v)} if isinstance(usage, dict) else {}
    counts = {"prompt_tokens": prompt, "completion_tokens": written}
    for name, text in counts.items():
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            found |= {name: estimate_tokens(text), "is_estimated": True}
    return found


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
