"""Actors that can't start end the run with the reason, and not with Ray's words about it."""

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
    """An actor class, an actor and a method of Ray, all of which only answer."""

    def options(self, **_: Any) -> "Handle":
        return self

    def remote(self, *_: Any) -> Any:
        return self

    @property
    def exchange(self) -> "Handle":
        return self

    @property
    def stop(self) -> "Handle":
        return self


def test_a_package_that_workers_lack_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("No module named 'aiohttp'")
    trace = (
        "Traceback (most recent call last):\n  File 'x'\nModuleNotFoundError: No module 'aiohttp'"
    )
    died = ActorDiedError(RayTaskError("TeacherActor.__init__", trace, missing))

    def get(_: object) -> None:
        raise died

    node = SimpleNamespace(get_node_id=lambda: "0" * 56)
    for name, stand_in in {
        "remote": lambda _: Handle(),
        "get_runtime_context": lambda: node,
        "wait": lambda refs, num_returns: (refs[:1], refs[1:]),
        "get": get,
        "kill": lambda _: None,
    }.items():
        monkeypatch.setattr(ray, name, stand_in)
    config = RunConfig()
    settings = ActorSettings(config.teacher, (None,), "none", "run", 1, True, config.inference)
    request: Any = SimpleNamespace(example_id="a")
    with pytest.raises(EngineError, match=r"actors died \(ModuleNotFoundError: No module"):
        run_calls(Plan("a", 1, None, {}), ActorPool({"a": request}, settings), 1)
