"""How a run ends whose actors can't start, or that is stopped."""

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from msrrec.config import RunConfig
from msrrec.errors import EngineError
from msrrec.synthesis.actor_pool import ActorPool, run_calls
from msrrec.synthesis.plan import Plan
from msrrec.synthesis.teacher_actor import ActorSettings


class Handle:
    """An actor class, an actor and its methods, which note what they are called with."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def options(self, **_: Any) -> "Handle":
        return self

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self

    @property
    def exchange(self) -> "Handle":
        return self

    @property
    def stop(self) -> "Handle":
        return self


def run(monkeypatch: pytest.MonkeyPatch, wait: Callable[..., Any], get: Any) -> list[Any]:
    """One call by one actor of a Ray that waits and gets in these ways; what actors were told."""
    calls: list[Any] = []
    node = SimpleNamespace(get_node_id=lambda: "0" * 56)
    monkeypatch.setattr(ray, "remote", lambda _: Handle(calls))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: node)
    monkeypatch.setattr(ray, "kill", calls.append)
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", get)
    config = RunConfig()
    settings = ActorSettings(config.teacher, (None,), "none", "run", 1, True, config.inference)
    request: Any = SimpleNamespace(example_id="a")
    with contextlib.suppress(SystemExit):
        run_calls(Plan("a", 1, None, {}), ActorPool({"a": request}, settings), 1)
    return calls


def test_a_package_that_workers_lack_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("No module named 'aiohttp'")
    trace = (
        "Traceback (most recent call last):\n  File 'x'\nModuleNotFoundError: No module 'aiohttp'"
    )

    def get(_: object) -> None:
        raise ActorDiedError(RayTaskError("TeacherActor.__init__", trace, missing))

    with pytest.raises(EngineError, match=r"actors died \(ModuleNotFoundError: No module"):
        run(monkeypatch, lambda refs, num_returns: (refs[:1], refs[1:]), get)


def test_a_stopped_run_gives_calls_in_flight_a_moment_shorter_than_rays_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise SystemExit(143)

    _, exchanged, (grace_s,), killed = run(monkeypatch, stop, lambda _: 0)
    assert isinstance(exchanged, tuple)
    assert 0 < grace_s < 3  # seconds that `ray job stop` waits before it kills
    assert isinstance(killed, Handle)
