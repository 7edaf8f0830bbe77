"""VLLM's engine on a thread of its own, so that the requests of several callers share its steps.

``vllm.LLM.generate`` serves one caller at a time: whoever comes next waits until the longest output
of the first is complete, while the engine works on fewer and fewer sequences. All calls of vLLM
come from the same thread, the one that loads it, because its threads on processors belong to that
thread and it is not made for several.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

_LONGEST_END_S = 10.0
"""Longest wait for the thread to end; a step may be under way, or the model still loads."""


@dataclass(frozen=True)
class Asked:
    """A request in vLLM's own terms.

    Attributes:
        prompt_ids: The tokens of the prompt.
        params: Its ``SamplingParams``.
        lora: Its ``LoRARequest``, if any.
        output: Its ``RequestOutput``, once it is there.
    """

    prompt_ids: Sequence[int]
    params: Any
    lora: Any
    output: Future[Any] = field(default_factory=Future)


class EngineThread:
    """A ``vllm.LLM`` that any number of threads may ask at once.

    The thread ends with the last reference to this object, or with the interpreter; either waits
    for it, so that the memory of the model is free then, and no step runs on.

    Attributes:
        llm: vLLM's own object, for what this class leaves out, while nothing is asked.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        """Load the model; raises what ``build`` raises.

        Args:
            build: Makes the ``vllm.LLM``.
        """
        self._asked: SimpleQueue[Asked | None] = SimpleQueue()
        loaded: Future[Any] = Future()
        thread = threading.Thread(
            target=_run, args=(build, loaded, self._asked), name="vllm", daemon=True
        )
        thread.start()
        weakref.finalize(self, _end, thread, self._asked)
        self.llm = loaded.result()

    def generate(self, requests: Sequence[Asked]) -> list[Any]:
        """The ``RequestOutput`` of every request, in order.

        Raises:
            Exception: What vLLM raised of the first request that has none.
        """
        for request in requests:
            self._asked.put(request)
        return [request.output.result() for request in requests]


def _end(thread: threading.Thread, asked: "SimpleQueue[Asked | None]") -> None:
    """End the thread; garbage may be collected on it too, where there is nothing to wait for."""
    asked.put(None)
    if thread is not threading.current_thread():
        thread.join(_LONGEST_END_S)


def _run(build: Callable[[], Any], loaded: Future[Any], asked: "SimpleQueue[Asked | None]") -> None:
    """Load a model, then take its steps until nobody is left to ask."""
    try:
        engine = _load(build, loaded).llm_engine
    except BaseException as error:  # it belongs to whoever waits for the model
        loaded.set_exception(error)
        return
    working: dict[str, Asked] = {}
    num_taken = 0
    while True:
        while not working or not asked.empty():
            request = asked.get()
            if request is None:
                return
            num_taken += 1
            _admit(engine, str(num_taken), request, working)
        _step(engine, working)


def _load(build: Callable[[], Any], loaded: Future[Any]) -> Any:
    llm = build()
    loaded.set_result(llm)
    return llm


def _admit(engine: Any, key: str, request: Asked, working: dict[str, Asked]) -> None:
    try:
        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        engine.add_request(key, prompt, request.params, lora_request=request.lora)
    except BaseException as error:  # it belongs to whoever asked
        request.output.set_exception(error)
    else:
        working[key] = request


def _step(engine: Any, working: dict[str, Asked]) -> None:
    """One step; where it fails, everything that the engine worked on fails and is taken from it."""
    try:
        for output in engine.step():
            if output.finished and (request := working.pop(output.request_id, None)):
                request.output.set_result(output)
    except BaseException as error:  # it belongs to those who asked
        with suppress(Exception):  # of an engine that may be broken
            engine.abort_request(list(working))
        for request in working.values():
            request.output.set_exception(error)
        working.clear()
