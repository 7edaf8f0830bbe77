"""What it means that an API gave no completion: one reading of statuses, codes and messages.

Providers spell the same failure in many ways: as a status, as a code beside another status, as an
error in a 200, in a list. Only ``classify`` decides what each of them is.
"""

import email.utils
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Failure = Literal[
    "moderated",
    "balance",
    "key",
    "address",
    "parameter",
    "call",
    "throttled",
    "overloaded",
    "later",
]
"""moderated: a filter refused this prompt. balance, key, address, parameter: no call can succeed.
call: this one can't. throttled: too many calls. overloaded, later: another try may succeed."""

_EXCERPT_CHARS = 120
_MESSAGE_CHARS = 200
_CODE_NAMES = ("code", "type", "status", "reason", "error_code", "innererror", "param")
_FILTER = re.compile(
    r"content[_ -]?(?:filter|policy|management)|moderat|data_?inspection|responsible_?ai|"
    r"flagged_input|invalid_prompt|content exists risk",
    re.IGNORECASE,
)
_FLAGGED = re.compile(
    r"\b(?:input|prompt|message|content|text|completion|output)s?\b.{0,80}"
    r"\b(?:flagged|moderat\w+|inappropriate|unsafe|prohibited"
    r"|violat\w+.{0,40}\b(?:polic\w+|safety|guidelines?|terms)\b"
    r"|(?:policy|safety|guidelines?|terms).{0,20}\bviolat\w+)"
    r"|\b(?:input|prompt|message|content|text|completion|output)s?\b.{0,80}\bsensitive\b(?! to\b)"
    r"|\b(?:inappropriate|unsafe|sensitive|prohibited) content\b"
    r"|\bviolat\w+.{0,40}\b(?:content|usage|safety) polic\w+",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    r"\b(?:account|organi[sz]ation|api[ _-]?key|billing|suspended|deactivated)\b", re.IGNORECASE
)
_NO_QUOTA = re.compile(r"insufficient[_ ](?:user[_ ])?quota", re.IGNORECASE)
_NO_BALANCE = re.compile(
    r"insufficient[_ ](?:balance|funds|credits?)|credit balance|billing[_ ](?:hard|not)|"
    r"payment required|exceeded_current_quota|\b(?:please )?(?:recharge|top up)\b",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(
    r"(?:invalid|incorrect)[_ ]api[_ ]key|api[_ ]key[_ ](?:not valid|invalid)", re.I
)
_THROTTLED = re.compile(
    r"resource_?exhausted|rate_?limit|too_?many_?requests|throttl|slow_?down", re.IGNORECASE
)
_EMPTY = re.compile(
    r"insufficient balance|exceeded_current_quota_error|please recharge", re.IGNORECASE
)
"""What means an empty balance even beside a 429."""
_UNKNOWN_MODEL = re.compile(r"\bmodel_not_found\b", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"unsupported_(?:parameter|value)|unsupported (?:parameter|value)|"
    r"unrecognized request argument|unknown_parameter|extra_forbidden|is not permitted|"
    r"unknown name \W?\w+|"
    r"\b(?:temperature|top_p|top_k|n|seed|max_tokens|max_completion_tokens|stop|logprobs|"
    r"response_format[\w.]{0,40})\W{0,2} must be\b",
    re.IGNORECASE,
)
_WAIT = re.compile(
    r"(?:retry|try again|wait)(?:ing)?(?: again)?\s+(?:in|after|for)?\s*((?:\d+(?:\.\d+)?\s?"
    r"(?:ms|milliseconds?|h(?:ours?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)(?![a-z])\s?){1,4})",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|milli|h|m|s)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = object()


class CallFailed(Exception):
    """One call got no completion, and the same call would get none again; others may."""


class TryAgain(Exception):
    """One try got no completion; another may.

    Attributes:
        wait_s: What the API asked to wait; 0 where it named no time.
        is_overloaded: Whether fewer calls at once would help.
        is_throttled: Whether the API is well and only refuses so many calls (429).
        is_refused: Whether nobody listens at the address.
        is_unreadable: Whether something came, and it was no chat completion.
    """

    def __init__(
        self,
        message: str,
        *,
        wait_s: float = 0.0,
        is_overloaded: bool = False,
        is_throttled: bool = False,
        is_refused: bool = False,
        is_unreadable: bool = False,
    ) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.is_overloaded, self.is_throttled = is_overloaded, is_throttled
        self.is_refused, self.is_unreadable = is_refused, is_unreadable


@dataclass(frozen=True)
class ApiError:
    """An error as an API reports it.

    Attributes:
        status: HTTP's, or the one that an error in a 200 names; 500 where that names none.
        message: Its first line, at most 200 characters.
        codes: All codes, types and reasons in it, a space between them.
        wait_s: Seconds that it asks to wait; 0 where it names none.
    """

    status: int
    message: str
    codes: str = ""
    wait_s: float = 0.0


def classify(error: ApiError) -> Failure:
    """What an error means for the call and for the run."""
    status, said = error.status, f"{error.codes} {error.message}"
    is_client = 400 <= status < 500
    if _is_moderated(error):
        return "moderated"
    if status == 402 or (is_client and _EMPTY.search(said)) or _NO_QUOTA.search(said):
        return "balance"
    if is_client and status != 429 and _NO_BALANCE.search(said):
        return "balance"
    if status in (429, 529) or _THROTTLED.search(error.codes):
        return "throttled"
    if status in (401, 403) or (is_client and _BAD_KEY.search(said)):
        return "key"
    if status == 404 or 300 <= status < 400 or (is_client and _UNKNOWN_MODEL.search(said)):
        return "address"
    if status in (408, 503):
        return "overloaded"
    if status >= 500 or status in (409, 425):
        return "later"
    return "parameter" if _UNSUPPORTED.search(said) else "call"


def _is_moderated(error: ApiError) -> bool:
    """Whether a filter refused this prompt, and not the account that sent it."""
    if error.status in (401, 402, 404, 429):
        return False
    if _FILTER.search(error.codes):
        return True
    is_flagged = _FILTER.search(error.message) or _FLAGGED.search(error.message)
    return error.status < 500 and bool(is_flagged) and not _ACCOUNT.search(error.message)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error in a response whose status says that there is one."""
    value = load_json(body)
    error = _find_error(value)
    if error is None:
        error = value if isinstance(value, dict) else excerpt(body)
    return _to_error(status, error, headers, body)


def error_inside(headers: Mapping[str, str], body: bytes, value: Any) -> ApiError | None:
    """The error in a response whose status says that there is none; None where there is none."""
    error = _find_error(value)
    if error is None:
        return None
    codes = error.values() if isinstance(error, dict) else ()
    statuses = [
        int(c) for c in codes if isinstance(c, int | str) and re.fullmatch(r"[345]\d\d", str(c))
    ]
    return _to_error(statuses[0] if statuses else 500, error, headers, body)


def load_json(body: bytes) -> Any:
    """The value of a body, an object equal to nothing where it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _MISSING


def excerpt(body: bytes) -> str:
    """The first characters of a body, quoted."""
    return repr(body[:_EXCERPT_CHARS].decode("utf-8", "replace"))


def clean(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can spell and UTF-8 can't."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str) -> str:
    """The first line of a text, at most 200 characters."""
    return clean(next(iter(text.splitlines()), ""))[:_MESSAGE_CHARS]


def _find_error(value: Any) -> Any:
    """The error in a JSON value: its own, its first choice's, or that of a list of one; or None."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return None
    if value.get("error") or value.get("object") == "error":
        return value.get("error") or value
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return (first.get("error") or None) if isinstance(first, dict) else None


def _to_error(status: int, error: Any, headers: Mapping[str, str], body: bytes) -> ApiError:
    text = str(error)
    codes = ""
    if isinstance(error, dict):
        text = str(error.get("message") or excerpt(body))
        codes = clean(" ".join(_iter_codes(error)))[: 4 * _MESSAGE_CHARS]
    wait_s = read_retry_after(headers) or _delay_inside(error) or _delay_told(text)
    return ApiError(status, shorten(text), codes, wait_s)


def _iter_codes(error: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Codes, types and reasons of an error, and of what it nests."""
    for name, value in list(error.items())[:20]:
        nested = value if isinstance(value, list) else [value]
        for part in nested[:5]:
            if isinstance(part, dict) and depth < 3:
                yield from _iter_codes(part, depth + 1)
        if name in _CODE_NAMES and isinstance(value, str | int):
            yield str(value)
        elif name == "flagged_input":
            yield name


def _delay_inside(error: Any) -> float:
    """Seconds of Google's ``retryDelay``; 0 where there is none."""
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?s", delay):
            return float(delay[:-1])
    return 0.0


def _delay_told(message: str) -> float:
    """Seconds in a sentence such as ``Please retry in 1m2.5s``; 0 where there is none."""
    told = _WAIT.search(message[: 10 * _MESSAGE_CHARS])
    amounts = _AMOUNT.findall(told.group(1)) if told else []
    return sum(float(amount) * _SECONDS[unit.lower()] for amount, unit in amounts)


def read_retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the headers ask to wait, given as such or as a date; 0 where they name none."""
    value = headers.get("retry-after", "")
    for text, unit in ((value, 1.0), (headers.get("retry-after-ms", ""), 0.001)):
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
