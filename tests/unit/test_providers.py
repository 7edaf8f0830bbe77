"""Each provider's own shapes, answered by a server, and what becomes of the call.

The bodies are as the providers document them or as people have reported them.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.stand_in import StandIn, http_reply, running
from msrrec.chat.failures import CallFailed, TryAgain
from msrrec.config import EndpointConfig
from msrrec.engines.openai import TeacherClient
from msrrec.errors import EngineError
from msrrec.reasoning.prompts import render_output, render_reasoning
from msrrec.synthesis.journal import JournalEntry, sampling_of
from msrrec.synthesis.pruning import judge
from msrrec.synthesis.rate_limiter import RateLimiter
from msrrec.synthesis.teachers import Teacher, Teachers

TITLES = ["Red Lamp", "Blue Kettle", "Tent"]
STEPS = ["likes tea", "a lamp; a kettle", "tea: a kettle", "it fits", "Blue Kettle. Tea."]
GOOD = render_output(render_reasoning("full", STEPS), "Blue Kettle")
DRAFT = render_output(render_reasoning("full", [*STEPS[:-1], "Tent. Rain."]), "Tent")
CUT = GOOD[: GOOD.index(" Tea.")] + " It fits the us"

Row = tuple[int, Any, str]
"""Status, body, and what becomes of it."""


def said(content: Any, finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    row = {"role": "assistant", "content": content, **message}
    return {"choices": [{"index": 0, "message": row, "finish_reason": finish_reason}]}


def failed(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


GEMINI = {
    "code": 429,
    "message": "You exceeded your current quota, please check your plan and billing details.\n"
    "* Quota exceeded for metric: generate_content_free_tier_requests, limit: 15\n"
    "Please retry in 1.2s.",
    "status": "RESOURCE_EXHAUSTED",
}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
AZURE_FILTER = failed(
    "The response was filtered due to the prompt triggering the content management policy.",
    type=None,
    param="prompt",
    code="content_filter",
    status=400,
    innererror={"code": "ResponsibleAIPolicyViolation"},
)
HTML = b"<html><body>Welcome</body></html>"
NO_PARAMETER = failed(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.",
    type="invalid_request_error",
    param="max_tokens",
    code="unsupported_parameter",
)

ROWS: dict[str, Row] = {
    "deepseek whole": (200, said(GOOD, reasoning_content=DRAFT), "kept"),
    "deepseek thoughts alone": (
        200,
        said(None, "length", reasoning_content=GOOD),
        "truncated",
    ),
    "deepseek empty content": (200, said("", reasoning_content="Hm."), "truncated"),
    "deepseek cut": (200, said(CUT, "insufficient_system_resource"), "truncated"),
    "deepseek out of money": (402, failed("Insufficient Balance"), "ends: the balance"),
    "deepseek moderated": (
        400,
        failed("Content Exists Risk", type="invalid_request_error"),
        "refused",
    ),
    "deepseek throttled": (429, failed("Rate limit reached"), "waits 0"),
    "deepseek overloaded": (503, failed("Service is too busy"), "tries again"),
    "openai whole": (200, said(GOOD, refusal=None), "kept"),
    "openai refusal": (200, said(None, refusal="I can't help with that."), "refused"),
    "openai filtered": (200, said(None, "content_filter"), "refused"),
    "openai cut": (200, said(CUT, "length"), "truncated"),
    "openai throttled": (
        429,
        failed("Rate limit reached. Please try again in 350ms.", code="rate_limit_exceeded"),
        "waits 0.35",
    ),
    "openai out of money": (
        429,
        failed("You exceeded your current quota", code="insufficient_quota"),
        "ends: the balance",
    ),
    "openai moderated": (
        400,
        failed("Your prompt was flagged as violating our policy", code="invalid_prompt"),
        "refused",
    ),
    "openai other parameter": (400, NO_PARAMETER, "ends: rename"),
    "openai wrong key": (401, failed("Incorrect API key"), "ends: refused the key"),
    "openai too long": (400, failed("too long", code="context_length_exceeded"), "call fails"),
    "azure throttled": (
        429,
        failed("Requests have exceeded the token rate limit. Please retry after 6 seconds."),
        "waits 6",
    ),
    "azure moderated": (400, AZURE_FILTER, "refused"),
    "azure no deployment": (404, failed("x", code="DeploymentNotFound"), "ends: no such path"),
    "openrouter whole": (
        200,
        said(GOOD, reasoning=DRAFT, reasoning_details=[{"type": "reasoning.text", "text": DRAFT}]),
        "kept",
    ),
    "openrouter moderated": (
        403,
        failed("Input was flagged by moderation", code=403, metadata={"flagged_input": "tea"}),
        "refused",
    ),
    "openrouter wrong key": (403, failed("This key has no access", code=403), "ends: refused the"),
    "openrouter out of money": (402, failed("Insufficient credits", code=402), "ends: the balance"),
    "openrouter throttled in a 200": (200, failed("Rate limited", code=429), "waits 0"),
    "openrouter out of money in a 200": (200, failed("credits", code=402), "ends: the balance"),
    "openrouter moderated in a 200": (
        200,
        failed("Input was flagged by moderation", code=403),
        "refused",
    ),
    "openrouter error in a 200": (200, failed("Provider returned error", code=502), "tries again"),
    "openrouter error in a choice": (
        200,
        {"choices": [{"error": {"code": 429, "message": "retry in 2s"}, "finish_reason": "error"}]},
        "waits 2",
    ),
    "openrouter broken off": (200, said("Step 1", "error"), "tries again"),
    "gemini throttled": (429, {"error": GEMINI}, "waits 1.2"),
    "gemini throttled in a list": (429, [{"error": GEMINI}], "waits 1.2"),
    "gemini throttled with details": (
        429,
        [{"error": {**GEMINI, "details": [{"@type": "x"}, RETRY_INFO]}}],
        "waits 7",
    ),
    "gemini wrong key": (400, [failed("API key not valid.", code=400)], "ends: refused the key"),
    "gemini overloaded": (
        503,
        [failed("The model is overloaded.", status="UNAVAILABLE")],
        "tries again",
    ),
    "gemini cut": (200, said(CUT, "MAX_TOKENS"), "truncated"),
    "gemini safety": (200, said(None, "SAFETY"), "refused"),
    "gemini thoughts in parts": (
        200,
        said([{"text": DRAFT, "thought": True}, {"text": GOOD}]),
        "kept",
    ),
    "gemini tagged thoughts": (200, said(f"<thought>{DRAFT}</thought>{GOOD}"), "kept"),
    "vllm whole": (200, said(GOOD, reasoning=DRAFT), "kept"),
    "vllm thoughts without the first tag": (200, said(f"{DRAFT}</think>{GOOD}"), "kept"),
    "vllm aborted": (200, said(CUT, "abort"), "truncated"),
    "vllm too long": (400, {"object": "error", "message": "too long", "code": 400}, "call fails"),
    "vllm error in a 200": (200, {"object": "error", "message": "x", "code": 400}, "call fails"),
    "vllm no model": (404, {"object": "error", "message": "no model"}, "ends: no such path"),
    "vllm harmony": (
        200,
        said(
            f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final"
            f"<|message|>{GOOD}"
        ),
        "kept",
    ),
    "sglang whole": (200, said(GOOD, reasoning_content=None, matched_stop=7), "kept"),
    "sglang thoughts alone": (200, said(None, "length", reasoning_content=DRAFT), "truncated"),
    "sglang aborted": (200, said(CUT, "abort"), "truncated"),
    "sglang full": (503, {"object": "error", "message": "The server is full"}, "tries again"),
    "mistral thoughts in parts": (
        200,
        said(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
                {"type": "text", "text": GOOD},
            ]
        ),
        "kept",
    ),
    "mistral thoughts alone in parts": (
        200,
        said([{"type": "thinking", "thinking": [{"type": "text", "text": GOOD}]}], "length"),
        "truncated",
    ),
    "mistral bracketed thoughts": (200, said(f"[THINK]{DRAFT}[/THINK]{GOOD}"), "kept"),
    "mistral cut": (200, said(CUT, "model_length"), "truncated"),
    "mistral throttled": (429, {"message": "Requests rate limit exceeded"}, "waits 0"),
    "mistral wrong parameter": (
        422,
        {"object": "error", "message": {"detail": [{"loc": ["body"], "msg": "no"}]}},
        "call fails",
    ),
    "openai refusal in a part": (
        200,
        said([{"type": "refusal", "refusal": "I can't help with that."}]),
        "refused",
    ),
    "anthropic thoughts in blocks": (
        200,
        said(GOOD, thinking_blocks=[{"type": "thinking", "thinking": DRAFT}]),
        "kept",
    ),
    "thoughts alone in blocks": (
        200,
        said(None, thinking_blocks=[{"type": "thinking", "thinking": GOOD}]),
        "truncated",
    ),
    "thoughts alone in an object": (200, said(None, reasoning={"content": GOOD}), "truncated"),
    "openai unknown model": (400, failed("x", code="model_not_found"), "ends: no such path"),
    "any HTML": (200, HTML, "tries again"),
    "any HTML with 502": (502, HTML, "tries again"),
    "any HTML with 429": (429, HTML, "waits 0"),
    "any null": (200, None, "tries again"),
    "any list": (200, [], "tries again"),
    "any null choices": (200, {"choices": None, "error": None}, "tries again"),
    "any null message": (200, {"choices": [{"message": None}]}, "tries again"),
    "any null content": (200, said(None, None), "empty"),
    "any brackets": (200, b"[" * 200_000, "tries again"),
    "any error as text": (500, {"error": "oops"}, "tries again"),
    "any parts": (200, said([{"type": "text", "text": GOOD}]), "kept"),
    "any usage of nonsense": (200, {**said(GOOD), "usage": {"cost": float("nan")}}, "kept"),
}


async def respond(number: int, prompt: str) -> tuple[bytes, str]:
    status, body, _ = ROWS[prompt]
    return http_reply(status, body if isinstance(body, bytes) else json.dumps(body).encode()), ""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(StandIn(respond)) as server:
        yield server.url


def become(url: str, name: str) -> str:
    """The verdict on what a row answers, or what is done."""
    endpoint = EndpointConfig(base_url=url, model="m")

    async def call() -> str:
        client = TeacherClient(endpoint, "key", 30.0)
        try:
            answer = await client.complete(name)
        except TryAgain as error:
            return f"waits {error.wait_s:g}" if error.is_throttled else "tries again"
        except CallFailed:
            return "call fails"
        except EngineError as error:
            return f"ends: {error}"
        finally:
            await client.close()
        sampling = sampling_of(endpoint)
        entry = JournalEntry("e", 0, "h", sampling, tries=1, answered_at_s=0.0, **vars(answer))
        return judge(entry, TITLES, target=1).verdict

    return asyncio.run(call())


@pytest.mark.parametrize("name", ROWS)
def test_what_each_provider_sends_has_its_consequence(url: str, name: str) -> None:
    found, expected = become(url, name), ROWS[name][2]
    if expected.startswith("ends: "):
        assert found.startswith(f"ends: teacher.base_url={url}: ")
        assert expected.removeprefix("ends: ") in found
        assert "\n" not in found
    else:
        assert found == expected


def test_prompts_that_a_filter_refuses_cost_themselves_alone(url: str) -> None:
    """Two good prompts around two moderated ones, at the same teacher, all in one run."""
    endpoint = EndpointConfig(base_url=url, model="m")
    names = ["vllm whole", "openrouter moderated", "deepseek moderated", "deepseek whole"]

    async def ask_all() -> list[str]:
        client = TeacherClient(endpoint, "key", 30.0)
        teachers = Teachers([Teacher(endpoint, client, RateLimiter(1))], max_retries=0)
        answers = [await teachers.complete(name, 0) for name in names]
        await teachers.close()
        return [answer.finish_reason for _, answer, _ in answers]

    assert asyncio.run(ask_all()) == ["stop", "content_filter", "content_filter", "stop"]


def test_a_teacher_that_throttles_is_left_alone_for_as_long_as_it_asks(url: str) -> None:
    limiter = RateLimiter(8)
    endpoint = EndpointConfig(base_url=url, model="m")
    teacher = Teacher(endpoint, TeacherClient(endpoint, "key", 30.0), limiter)

    async def throttled() -> float:
        with pytest.raises(TryAgain):
            await teacher.complete("gemini throttled in a list", 0)
        told_s = time.monotonic()
        with pytest.raises(TryAgain):
            await teacher.complete("any null", 0)
        await teacher.client.close()
        return time.monotonic() - told_s

    assert 1.1 <= asyncio.run(throttled()) <= 10
