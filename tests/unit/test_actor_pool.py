"""How a run ends whose actors can't start, or that is stopped."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from msrrec.config import RunConfig, load_config
from msrrec.errors import EngineError
from msrrec.synthesis.actor_pool import ActorPool, run_calls
from msrrec.synthesis.plan import Plan
from msrrec.synthesis.teacher_actor import ActorSettings, CallOutcome


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
    def locate(self) -> "Handle":
        return Handle([])

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


@pytest.mark.parametrize(
    ("on_living", "losses", "is_refused"), [(True, 5, False), (True, 6, True), (False, 60, False)]
)
def test_actors_of_lost_machines_are_replaced_without_a_limit_and_those_that_die_with_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_living: bool, losses: int, is_refused: bool
) -> None:
    left = [losses]

    def get(ref: "Ref") -> Any:
        if ref.method == "locate":
            return NODES[0]
        if ref.method == "stop":
            return 0
        if left[0]:
            left[0] -= 1
            raise ActorDiedError
        return [CallOutcome(("a", 0), None, "no answer")]

    monkeypatch.setattr(ray, "remote", lambda _: Actor())
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(ray, "nodes", lambda: show_nodes(is_alive=on_living))
    monkeypatch.setattr(ray, "wait", lambda refs, num_returns: (refs[:1], refs[1:]))
    monkeypatch.setattr(ray, "get", get)
    config = load_config(None, ["teacher.base_url=http://127.0.0.1:9/v1", "teacher.model=m"])
    journal = str(tmp_path / "none")
    settings = ActorSettings(config.teacher, (None,), journal, "run", 1, False, config.inference)
    request: Any = SimpleNamespace(example_id="a")
    plan = Plan("a", 1, None, {})
    expected = "5 actors died" if is_refused else "calls in a row failed"
    with pytest.raises(EngineError, match=expected):
        run_calls(plan, ActorPool({"a": request}, settings), 1)


NODES = tuple(digit * 56 for digit in "123")


def show_nodes(*, is_alive: bool) -> list[dict[str, Any]]:
    """Two nodes with cores, and a head without."""
    cores = [{"CPU": 2.0}, {}, {"CPU": 2.0}]
    return [
        {"NodeID": node, "Alive": is_alive, "Resources": resources}
        for node, resources in zip(NODES, cores, strict=True)
    ]


def test_actors_are_put_on_the_nodes_with_cores_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Placed(Actor):
        def options(self, **options: Any) -> "Actor":
            found.append(options["scheduling_strategy"].node_id)
            return self

    found: list[str] = []
    monkeypatch.setattr(ray, "remote", lambda _: Placed())
    monkeypatch.setattr(ray, "nodes", lambda: show_nodes(is_alive=True))
    config = load_config(None, ["teacher.base_url=http://127.0.0.1:9/v1", "teacher.model=m"])
    settings = ActorSettings(config.teacher, (None,), "none", "run", 3, False, config.inference)
    pool = ActorPool({}, settings)
    for _ in range(3):
        pool.add_actor()
    assert found == [NODES[0], NODES[2], NODES[0]]


@dataclass(frozen=True, eq=False)
class Ref:
    """A promise of what a method of an actor returns."""

    method: str


class Actor:
    """An actor class and its actors, each of whose methods returns a promise."""

    def options(self, **_: Any) -> "Actor":
        return self

    def remote(self, *_: Any) -> "Actor":
        return Actor()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *_: Ref(name))
