"""What bodies, statuses and codes of an API mean."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.chat.completions import Completion, read_completion
from msrrec.chat.failures import (
    TryAgain,
    classify,
    error_inside,
    load_json,
    read_error,
    read_retry_after,
)

NAMES = [
    *("choices", "message", "content", "usage", "finish_reason", "text", "error"),
    *("type", "thinking", "code", "details", "retryDelay", "summary"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
        )
    ),
)


def read(value: Any, prompt: str = "prompt") -> Completion:
    body = json.dumps(value).encode()
    return read_completion(load_json(body), body, prompt, 0.1)


@given(JSON)
def test_any_json_is_an_answer_or_worth_another_try(value: Any) -> None:
    body = json.dumps(value).encode()
    error = error_inside({}, body, load_json(body))
    if error is not None:
        assert classify(error)
        return
    try:
        answer = read(value)
    except TryAgain:
        return
    assert isinstance(answer.text, str)


@given(JSON, st.integers(300, 599))
def test_any_json_is_an_error_that_has_one_meaning(value: Any, status: int) -> None:
    error = read_error(status, {}, json.dumps(value).encode())
    assert error.status == status
    assert "\n" not in error.message
    assert error.wait_s >= 0
    assert classify(error)


@given(JSON)
def test_any_field_around_an_answer_is_borne(value: Any) -> None:
    message = {"content": "text", "reasoning_content": value, "refusal": None}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": value}
    answer = read({**body, "model": value})
    assert answer.text == "text"
    assert isinstance(answer.usage["prompt_tokens"], int)
    assert answer.served_model.encode("utf-8") is not None


def test_tokens_that_nobody_counted_are_estimated_and_marked() -> None:
    usage = read({"choices": [{"message": {"content": "x" * 39}}]}, "y" * 79).usage
    assert usage == {"prompt_tokens": 20, "completion_tokens": 10, "is_estimated": True}


def test_half_a_surrogate_pair_is_replaced_so_that_the_text_can_be_written() -> None:
    assert read({"choices": [{"message": {"content": "a\ud83d b"}}]}).text == "a\ufffd b"


def test_a_wait_is_given_in_seconds_or_as_a_date() -> None:
    assert read_retry_after({"retry-after": "2.5"}) == 2.5
    assert read_retry_after({"retry-after-ms": "250"}) == 0.25
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30))
    assert 28 <= read_retry_after({"retry-after": later}) <= 30
    for nonsense in ("soon", "nan", "inf", "-3"):
        assert read_retry_after({"retry-after": nonsense}) == 0
    assert read_retry_after({}) == 0


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("Please retry in 1.2s.", 1.2),
        ("Please try again in 350ms. Visit us", 0.35),
        ("Please try again in 1m2.5s", 62.5),
        ("Please retry after 6 seconds.", 6),
        ("Please wait 2 minutes", 120),
        ("Please try again in a moment", 0),
        ("Try again in 3 steps", 0),
    ],
)
def test_a_wait_is_told_in_the_message(told: str, seconds: float) -> None:
    body = json.dumps({"error": {"message": f"Rate limit reached. {told}"}}).encode()
    assert read_error(429, {}, body).wait_s == pytest.approx(seconds)
    assert read_error(429, {"retry-after": "9"}, body).wait_s == 9


def meaning(status: int, error: Any) -> str:
    return classify(read_error(status, {}, json.dumps({"error": error}).encode()))


@pytest.mark.parametrize(
    ("status", "error", "failure"),
    [
        (401, {"message": "Incorrect API key provided"}, "key"),
        (403, {"message": "not allowed"}, "key"),
        (403, {"message": "Your account was flagged for content violations"}, "key"),
        (400, {"message": "API key not valid. Please pass a valid API key."}, "key"),
        (402, {"message": "Insufficient Balance"}, "balance"),
        (429, {"message": "quota", "code": "insufficient_quota"}, "balance"),
        (429, {"message": "quota", "type": "insufficient_quota", "code": None}, "balance"),
        (429, {"message": "You exceeded your current quota, please check"}, "throttled"),
        (429, {"message": "billing hard limit? no: rate"}, "throttled"),
        (400, {"message": "Your credit balance is too low"}, "balance"),
        (404, {"message": "no model"}, "address"),
        (301, {"message": "moved"}, "address"),
        (400, {"message": "too long"}, "call"),
        (400, {"code": "content_filter"}, "moderated"),
        (400, {"message": "Content Exists Risk"}, "moderated"),
        (400, {"message": "System detected unsafe or sensitive content"}, "moderated"),
        (400, {"message": "Input data may contain inappropriate content."}, "moderated"),
        (400, {"message": "x", "code": "data_inspection_failed"}, "moderated"),
        (403, {"message": "Input was flagged by moderation"}, "moderated"),
        (403, {"message": "no", "metadata": {"flagged_input": "lamps"}}, "moderated"),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, "moderated"),
        (400, {"message": "x", "code": "unsupported_parameter"}, "parameter"),
        (400, {"message": "Unsupported value: 'temperature' does not support 0.6"}, "parameter"),
        (400, {"message": "Input content is too long; violates max length"}, "call"),
        (400, {"message": "Failed to parse: message content violates JSON schema"}, "call"),
        (400, {"message": "Completion of text is sensitive to parameter temperature"}, "call"),
        (400, {"message": "The prompt violates our safety guidelines"}, "moderated"),
        (429, {"message": "suspended due to insufficient balance, please recharge"}, "balance"),
        (429, {"message": "quota", "type": "exceeded_current_quota_error"}, "balance"),
        (400, {"message": "`seed` is not permitted"}, "parameter"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}, "parameter"),
        (400, {"message": 'Invalid JSON payload. Unknown name "seed": no field.'}, "parameter"),
        (400, {"message": "temperature must be 1 for this model"}, "parameter"),
        (400, {"message": "'response_format.type' must be 'json_schema'"}, "parameter"),
        (400, {"message": "no such model", "code": "model_not_found"}, "address"),
        *((status, "later", "throttled") for status in (429, 529)),
        *((status, "later", "overloaded") for status in (408, 503)),
        *((status, "later", "later") for status in (409, 425, 500, 502)),
    ],
)
def test_each_error_has_one_meaning(status: int, error: Any, failure: str) -> None:
    assert meaning(status, error) == failure
