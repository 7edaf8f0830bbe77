"""An engine that several threads ask at once, with a vLLM that counts instead of generating."""

import gc
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from msrrec.engines.stepping import Asked, EngineThread

WAIT_S = 10.0


class FakeLLM:
    """Its engine takes a request's first token for the number of steps that it needs.

    A negative number is refused, and a step fails while a request with 0 is there. ``gate`` holds
    the steps back while it is closed.
    """

    def __init__(self) -> None:
        self.llm_engine = self
        self.gate = threading.Event()
        self.gate.set()
        self.left: dict[str, int] = {}
        self.sizes: list[int] = []
        self.threads = {threading.current_thread()}
        self.steps, self.callers = threading.Semaphore(0), threading.Semaphore(0)

    def add_request(self, key: str, prompt: Any, params: Any, lora_request: Any) -> None:
        self.threads.add(threading.current_thread())
        if prompt["prompt_token_ids"][0] < 0:
            raise ValueError("a negative number of steps")
        self.left[key] = prompt["prompt_token_ids"][0]

    def step(self) -> list[Any]:
        self.threads.add(threading.current_thread())
        self.steps.release()
        self.gate.wait(WAIT_S)
        self.sizes.append(len(self.left))
        if 0 in self.left.values():
            raise RuntimeError("a step failed")
        self.left = {key: n - 1 for key, n in self.left.items()}
        outputs = [SimpleNamespace(request_id=key, finished=n == 0) for key, n in self.left.items()]
        self.left = {key: n for key, n in self.left.items() if n}
        return outputs

    def abort_request(self, keys: list[str]) -> None:
        for key in keys:
            del self.left[key]


class Output(Future[Any]):
    """Counts those who wait for it, whose requests have all been handed over then."""

    def __init__(self, callers: threading.Semaphore) -> None:
        super().__init__()
        self.callers = callers

    def result(self, timeout: float | None = None) -> Any:
        self.callers.release()
        return super().result(timeout)


class Interrupted(Future[Any]):
    """Whoever waits for it is interrupted."""

    def result(self, timeout: float | None = None) -> Any:
        raise KeyboardInterrupt


def ask(engine: EngineThread, *steps: int) -> list[Any]:
    outputs = [Output(engine.llm.callers) for _ in steps]
    asked = zip(steps, outputs, strict=True)
    return engine.generate([Asked((n,), None, None, output) for n, output in asked])


def begin(pool: ThreadPoolExecutor, engine: EngineThread, num_steps: int) -> "Future[list[Any]]":
    """Ask on a thread, and return once the engine is in a step, whose gate is closed."""
    engine.llm.gate.clear()
    asked = pool.submit(ask, engine, num_steps)
    assert engine.llm.steps.acquire(timeout=WAIT_S)
    return asked


def open_gate(engine: EngineThread, num_callers: int) -> None:
    """Let the engine go on once so many have asked."""
    for _ in range(num_callers):
        assert engine.llm.callers.acquire(timeout=WAIT_S)
    engine.llm.gate.set()


def test_requests_of_several_threads_share_the_steps_of_one_thread() -> None:
    engine = EngineThread(FakeLLM)
    with ThreadPoolExecutor(3) as pool:
        first = begin(pool, engine, 2)
        others = [pool.submit(ask, engine, 3), pool.submit(ask, engine, 1, 4)]
        open_gate(engine, 3)
        keys = [[o.request_id for o in f.result(WAIT_S)] for f in (first, *others)]
    assert engine.llm.sizes == [1, 4, 2, 2, 1]
    assert [len(found) for found in keys] == [1, 1, 2]
    assert len({key for found in keys for key in found}) == 4
    assert len(engine.llm.threads) == 1
    assert threading.current_thread() not in engine.llm.threads


def test_outputs_are_in_the_order_of_the_requests() -> None:
    engine = EngineThread(FakeLLM)
    assert [output.request_id for output in ask(engine, 3, 1, 2)] == ["1", "2", "3"]
    assert ask(engine) == []


def test_a_refused_request_fails_its_own_caller_alone() -> None:
    engine = EngineThread(FakeLLM)
    with ThreadPoolExecutor(2) as pool:
        good = begin(pool, engine, 5)
        bad = pool.submit(ask, engine, 2, -1)
        open_gate(engine, 2)
        with pytest.raises(ValueError, match="a negative number"):
            bad.result(WAIT_S)
        assert len(good.result(WAIT_S)) == 1


def test_a_step_that_fails_fails_all_that_it_worked_on_and_no_later_request() -> None:
    engine = EngineThread(FakeLLM)
    with ThreadPoolExecutor(2) as pool:
        asked = [begin(pool, engine, 5), pool.submit(ask, engine, 0)]
        open_gate(engine, 2)
        for one in asked:
            with pytest.raises(RuntimeError, match="a step failed"):
                one.result(WAIT_S)
        assert len(pool.submit(ask, engine, 1, 2).result(WAIT_S)) == 2


def test_outputs_of_requests_that_a_broken_engine_kept_fail_nobody() -> None:
    class Broken(FakeLLM):
        def step(self) -> list[Any]:
            outputs = super().step()
            if len(self.sizes) == 1:
                raise RuntimeError("a step failed")
            return outputs

        def abort_request(self, keys: list[str]) -> None:
            raise RuntimeError("can't abort")

    engine = EngineThread(Broken)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="a step failed"):
            pool.submit(ask, engine, 2).result(WAIT_S)
        assert len(pool.submit(ask, engine, 3).result(WAIT_S)) == 1


def test_a_step_that_would_end_the_thread_fails_those_who_asked() -> None:
    class Leaving(FakeLLM):
        def step(self) -> list[Any]:
            raise SystemExit(1)

    engine = EngineThread(Leaving)
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(ask, engine, 1).exception(WAIT_S), SystemExit)


def test_a_model_that_cannot_be_loaded_raises_where_it_was_asked_for() -> None:
    def build() -> Any:
        raise OSError("no such model")

    with pytest.raises(OSError, match="no such model"):
        EngineThread(build)


def test_the_thread_and_the_model_end_with_the_last_reference() -> None:
    engine = EngineThread(FakeLLM)
    ask(engine, 1)
    model, (thread,) = weakref.ref(engine.llm), engine.llm.threads
    assert thread.is_alive()
    del engine
    gc.collect()
    assert not thread.is_alive()
    assert model() is None


def test_a_caller_that_gave_up_does_not_keep_the_thread() -> None:
    engine = EngineThread(FakeLLM)
    engine.llm.gate.clear()
    with pytest.raises(KeyboardInterrupt):
        engine.generate([Asked((1000,), None, None, Interrupted())])
    assert engine.llm.steps.acquire(timeout=WAIT_S)
    gate, (thread,) = engine.llm.gate, engine.llm.threads
    threading.Timer(0.05, gate.set).start()
    del engine
    gc.collect()
    assert not thread.is_alive()
