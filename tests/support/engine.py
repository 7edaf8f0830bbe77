"""An engine that answers from a function, and a tokenizer of one token a character.

Importable from Ray workers too, which is why it is no fixture.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msrrec.config import InferenceConfig, PromptConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource
from msrrec.reasoning.prompts import render_answer, render_recommendation

SOURCE = ModelSource("fake", "/nowhere", None)


class CharTokenizer:
    """Token ids are code points."""

    bos_token: str | None = None

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(i) for i in ids)


class FakeEngine:
    """Answers each request with ``answer(prompt, seed)``; every token has log-probability -0.5.

    As the next token, a character is twice as likely as the one before it in the alphabet.
    """

    def __init__(self, answer: Callable[[str, int], str], max_model_len: int = 4096) -> None:
        self.tokenizer = CharTokenizer()
        self.model_name = "fake"
        self.max_model_len = max_model_len
        self.answer = answer
        self.prompts: list[str] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        generations = []
        for request in requests:
            prompt = self.tokenizer.decode(request.prompt_ids)
            self.prompts.append(prompt)
            answers = request.choice.answers if request.choice else ()
            if request.choice and not request.choice.closing and len(answers) == 1:
                (ids,) = answers  # a text to be scored
                generations.append(Generation(ids, (-0.5,) * len(ids), "stop", -0.25))
                continue
            if request.next_ids:
                scores = tuple(math.log(2.0) * (i - 128) for i in request.next_ids)
                generations.append(Generation((0,), (-0.5,), "length", None, scores))
                continue
            ids = tuple(self.tokenizer.encode(self.answer(prompt, request.seed)))
            generations.append(Generation(ids, (-0.5,) * len(ids), "stop"))
        return generations


def listed_candidates(prompt: str) -> list[str]:
    """The candidates as a prompt shows them."""
    block = prompt.split("Candidates:\n")[1]
    lines = [line for line in block.splitlines() if line.startswith("(")]
    return [line.partition(") ")[2] for line in lines]


def answer_by_seed(prompt: str, seed: int) -> str:
    """A short chain, then the candidate that the seed picks."""
    titles = listed_candidates(prompt)
    index = seed % len(titles)
    answer = render_answer(titles[index], index, "number_title")
    return f"Step 1. Thought {seed}\n" + render_recommendation(answer)


def build_fake(source: ModelSource, config: InferenceConfig) -> Recommender:
    """What a Ray actor builds in place of vLLM."""
    return recommender(FakeEngine(answer_by_seed), config)


def build_broken(source: ModelSource, config: InferenceConfig) -> Recommender:
    """A model that can't be loaded."""
    from msrrec.errors import EngineError

    raise EngineError("fake: the weights are a picture of weights")


def build_halting(journal: str, source: ModelSource, config: InferenceConfig) -> Recommender:
    """Answers until a journal holds three batches, so that a run can be killed in its middle."""
    import time

    def answer(prompt: str, seed: int) -> str:
        while len(list(Path(journal).glob("*.parquet"))) >= 3:
            time.sleep(0.05)
        return answer_by_seed(prompt, seed)

    return recommender(FakeEngine(answer), config)


def build_cramped(source: ModelSource, config: InferenceConfig) -> Recommender:
    """An engine with no room for any prompt."""
    return recommender(FakeEngine(answer_by_seed, max_model_len=100), config)


def build_deadly(source: ModelSource, config: InferenceConfig) -> Recommender:
    """An engine that takes its whole process with it."""
    import os

    return recommender(FakeEngine(lambda prompt, seed: os._exit(1)), config)


def build_poisoned(
    word: str, deaths: str, source: ModelSource, config: InferenceConfig
) -> Recommender:
    """An engine whose process ends at a prompt with a word, and leaves a line of a file."""
    import os

    class Poisoned(FakeEngine):
        def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
            prompts = [self.tokenizer.decode(request.prompt_ids) for request in requests]
            if any(word in prompt.split("Candidates:")[0] for prompt in prompts):
                with open(deaths, "a", encoding="utf-8") as file:
                    file.write("died\n")
                os._exit(1)
            return super().generate(requests)

    return recommender(Poisoned(answer_by_seed), config)


def build_slow(log: str, source: ModelSource, config: InferenceConfig) -> Recommender:
    """An engine that takes a tenth of a second an output, one by one, and logs process and seed."""
    import os
    import threading
    import time

    turn = threading.Lock()

    def answer(prompt: str, seed: int) -> str:
        with turn:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {seed}\n")
            time.sleep(0.1)
        return answer_by_seed(prompt, seed)

    return recommender(FakeEngine(answer), config)


def build_paced(
    log: str, pause_s: float, poison: str, source: ModelSource, config: InferenceConfig
) -> Recommender:
    """An engine that takes its time and logs each seed; a prompt with the poison ends its process.

    Args:
        log: File for a line with the seed of each output.
        pause_s: Seconds an output takes; they take turns.
        poison: A word of a history, or nothing.
        source: The weights, which are not loaded.
        config: Settings of inference.
    """
    import os
    import threading
    import time

    turn = threading.Lock()

    def answer(prompt: str, seed: int) -> str:
        if poison and poison in prompt.split("Candidates:")[0]:
            os._exit(1)
        with turn:
            time.sleep(pause_s)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{seed}\n")
        return answer_by_seed(prompt, seed)

    return recommender(FakeEngine(answer), config)


def build_importless(source: ModelSource, config: InferenceConfig) -> Recommender:
    """An engine that needs a module which is not there."""
    try:
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise RuntimeError("the engine can't start") from error
    return build_fake(source, config)


def build_raising(source: ModelSource, config: InferenceConfig) -> Recommender:
    """An engine with a fault in its code."""

    def answer(prompt: str, seed: int) -> str:
        raise KeyError("no such logit")

    return recommender(FakeEngine(answer), config)


def recommender(engine: FakeEngine, config: InferenceConfig | None = None) -> Recommender:
    """A recommender around a fake engine."""
    return Recommender(
        engine.tokenizer,
        max_model_len=engine.max_model_len,
        form=PromptConfig(),
        config=config or InferenceConfig(max_new_tokens=64),
        engine=engine,
    )
