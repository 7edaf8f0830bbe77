"""A teacher on local weights goes on when its engine dies, and gives up only the deadly prompt."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from msrrec.chat.completions import Completion
from msrrec.chat.failures import CallFailed
from msrrec.config import EndpointConfig, InferenceConfig
from msrrec.engines import vllm
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from msrrec.synthesis.local import LocalClient
from tests.support.engine import CharTokenizer

ENDPOINT = EndpointConfig(engine="vllm", model="embedded", max_tokens=16)
DEADLY = "deadly"


class Engine:
    """Answers "yes" after a moment, and dies with all that it holds once it begins a bad prompt."""

    started: int
    begun: list[str]

    def __init__(self, *_: Any) -> None:
        type(self).started += 1
        self.tokenizer, self.model_name, self.max_model_len = CharTokenizer(), "fake", 99
        self._death = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> Generation:
        prompt = self.tokenizer.decode(request.prompt_ids)
        self.begun.append(prompt.strip())
        if DEADLY in prompt:
            self._death.set()
        await asyncio.sleep(0.001)
        if self._death.is_set():
            raise EngineError("fake: vLLM failed")
        ids = tuple(self.tokenizer.encode("yes"))
        return Generation(ids, (-0.5,) * len(ids), "stop")

    async def check_health(self) -> None:
        if self._death.is_set():
            raise EngineError("fake: the vLLM engine died")

    def shutdown(self) -> None:
        assert self._death.is_set()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    Engine.started, Engine.begun = 0, []
    monkeypatch.setattr(vllm, "AsyncVllmEngine", Engine)
    return Engine


def ask(prompts: Sequence[str]) -> list[Completion | BaseException]:
    """What one client gives for calls that are all in flight at once."""

    async def run() -> list[Completion | BaseException]:
        client = LocalClient(ENDPOINT, InferenceConfig(), use_chat_template=False)
        calls = [client.complete(prompt, 0) for prompt in prompts]
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


def test_a_prompt_that_kills_the_engine_is_given_up_alone(engine: type[Engine]) -> None:
    prompts = [f"prompt {n}" for n in range(8)]
    prompts.insert(2, DEADLY)
    found = ask([*prompts, "one more"])
    failed = found.pop(2)
    assert isinstance(failed, CallFailed)
    assert str(failed) == "embedded: vLLM's engine dies of the prompt"
    assert [c.text if isinstance(c, Completion) else c for c in found] == ["yes"] * 9
    assert engine.started == 3  # one dies with the others beside the prompt, two with it alone
    assert engine.begun.count(DEADLY) == 3


def test_further_attempts_at_a_deadly_prompt_kill_nothing(engine: type[Engine]) -> None:
    found = ask(["first", DEADLY, DEADLY, DEADLY])
    assert [type(value) for value in found] == [Completion, *[CallFailed] * 3]
    assert engine.begun.count(DEADLY) == 5  # three at once, then two of them alone


def test_engines_that_die_of_everything_end_the_run(engine: type[Engine]) -> None:
    found = ask([f"{DEADLY} {n}" for n in range(3)])
    assert {type(value) for value in found} == {EngineError}
    assert {str(value) for value in found} == {"embedded: vLLM's engine died 4 times in a row"}
    assert engine.started == 4
