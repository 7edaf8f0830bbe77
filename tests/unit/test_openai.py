"""What a body or a status of an API means."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.config import EndpointConfig
from msrrec.engines.openai import (
    CallFailed,
    Completion,
    TeacherClient,
    TryAgain,
    read_completion,
    retry_after_s,
)
from msrrec.errors import EngineError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "finish_reason", "text"]),
            inner,
        )
    ),
)


@given(JSON)
def test_any_json_is_an_answer_or_worth_another_try(value: Any) -> None:
    try:
        answer = read_completion(json.dumps(value).encode(), "prompt", 0.1)
    except TryAgain:
        return
    assert isinstance(answer.text, str)


@given(JSON)
def test_any_field_around_an_answer_is_borne(value: Any) -> None:
    message = {"content": "text", "reasoning_content": value, "refusal": None}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": value}
    answer = read_completion(json.dumps({**body, "model": value}).encode(), "prompt", 0.1)
    assert answer.text == "text"
    assert isinstance(answer.usage["prompt_tokens"], int)
    assert answer.served_model.encode("utf-8") is not None


def test_the_attempt_is_the_seed_where_the_api_takes_one() -> None:
    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m")
    plain = TeacherClient(endpoint, None, 1.0).request_body("Which?", 3)
    assert plain == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
    }
    seeded = TeacherClient(endpoint, None, 1.0, sends_seed=True).request_body("Which?", 3)
    assert seeded == {**plain, "seed": 3}


def test_tokens_that_nobody_counted_are_estimated_and_marked() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x" * 39}}]}).encode()
    usage = read_completion(body, "y" * 79, 0.1).usage
    assert usage == {"prompt_tokens": 20, "completion_tokens": 10, "is_estimated": True}


def test_half_a_surrogate_pair_is_replaced_so_that_the_text_can_be_written() -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud83d b"}}]}'
    assert read_completion(body, "prompt", 0.1).text == "a\ufffd b"


def test_a_wait_is_given_in_seconds_or_as_a_date() -> None:
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30))
    assert 28 <= retry_after_s({"retry-after": later}) <= 30
    assert retry_after_s({"retry-after": "soon"}) == 0
    assert retry_after_s({}) == 0


def refused(status: int, error: Any, **headers: str) -> Completion:
    client = TeacherClient(EndpointConfig(base_url="http://t/v1", model="m"), None, 1.0)
    return client.read_refusal(status, headers, json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("status", "message", "sentence"),
    [
        (401, "Incorrect API key provided", "refused the key"),
        (403, "not allowed", "refused the key"),
        (402, "Insufficient Balance", "the balance is exhausted"),
        (429, "You exceeded your current quota, please check", "the balance is exhausted"),
        (400, "Your credit balance is too low", "the balance is exhausted"),
        (404, "no model", "no such path or model 'm'"),
        (301, "moved", "no such path or model 'm'"),
    ],
)
def test_what_no_call_can_mend_ends_the_run(status: int, message: str, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence) as caught:
        refused(status, {"message": message})
    assert "\n" not in str(caught.value)


def test_what_another_try_may_mend_is_tried_again() -> None:
    for status in (408, 409, 425, 429, 500, 502, 503, 529):
        with pytest.raises(TryAgain) as caught:
            refused(status, {"message": "later"}, **{"retry-after": "3"})
        assert caught.value.is_throttled == (status in (429, 529))
        assert caught.value.is_overloaded == (status in (408, 429, 503, 529))
        assert caught.value.wait_s == 3


def test_what_concerns_one_call_alone_fails_that_call() -> None:
    with pytest.raises(CallFailed, match="400: too long"):
        refused(400, {"message": "too long"})
    assert refused(400, {"code": "content_filter"}).finish_reason == "content_filter"
