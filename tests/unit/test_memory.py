"""What needs much memory runs as a task that reserves it, and what needs little runs here."""

import logging
from pathlib import Path
from typing import Any

import pytest
import ray

from msrrec.engines.memory import HERE_BYTES, loaded_bytes, run_with_memory
from msrrec.errors import ConfigError, EngineError, ModelError
from msrrec.models import ModelSource
from tests.support.clusters import show_nodes
from tests.support.training import save_base

NEED = 20 << 30
ASKED = ("train.export_merged=true", "use train.export_merged=false")
Task = tuple[dict[str, Any], list[Any]]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Ray's tasks, which are noted and not run."""
    found: list[Task] = []

    def remote(**options: Any) -> Any:
        class Task:
            def __init__(self, function: Any) -> None:
                pass

            def remote(self, *arguments: Any) -> str:
                found.append((options, list(arguments)))
                return "reference"

        return Task

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda _: None)
    return found


def test_little_memory_is_taken_in_the_process_itself(tasks: list[Task]) -> None:
    done: list[int] = []
    run_with_memory(HERE_BYTES, *ASKED, done.append, 1)
    assert (done, tasks) == ([1], [])


def test_much_memory_is_reserved_on_a_node_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tasks: list[Task]
) -> None:
    show_nodes(monkeypatch, {"CPU": 4.0, "memory": 2.0**34}, {"CPU": 4.0, "memory": 2.0**36})
    done: list[int] = []
    run_with_memory(NEED, *ASKED, done.append, 1)
    (options, (work, arguments, _)), *rest = tasks
    anywhere = {"scheduling_strategy": "DEFAULT"}
    assert options == {"num_cpus": 1, "memory": NEED, "max_retries": 1, **anywhere}
    assert (work, arguments, rest, done) == (done.append, (1,), [], [])


def test_a_cluster_without_such_a_node_is_refused_and_a_local_ray_warned(
    monkeypatch: pytest.MonkeyPatch, tasks: list[Task], caplog: pytest.LogCaptureFixture
) -> None:
    small = {"CPU": 4.0, "memory": 2.0**34}
    show_nodes(monkeypatch, small)
    expected = r"room for 0 × \(CPU \+ 20\.0 GiB of memory\); .*or use train\.export_merged=false"
    with pytest.raises(ConfigError, match=expected):
        run_with_memory(NEED, *ASKED, print)
    show_nodes(monkeypatch, small, is_local=True)
    monkeypatch.setattr(logging.getLogger("msrrec"), "propagate", True)
    run_with_memory(NEED, *ASKED, print)
    ((options, _),) = tasks
    assert options == {"num_cpus": 1, "max_retries": 0, "scheduling_strategy": "DEFAULT"}
    assert "needs about 20.0 GiB of memory" in caplog.text


def test_what_the_work_raised_is_raised_and_a_dead_process_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tasks: list[Task]
) -> None:
    show_nodes(monkeypatch, {"CPU": 4.0, "memory": 2.0**36})

    def fail(error: Exception) -> None:
        def get(_: object) -> None:
            raise error

        monkeypatch.setattr(ray, "get", get)
        run_with_memory(NEED, *ASKED, print)

    with pytest.raises(ModelError, match="no weights"):
        fail(ray.exceptions.RayTaskError("merge", "traceback", ModelError("no weights")))
    with pytest.raises(EngineError, match=r"its process died .*20\.0 GiB of free memory"):
        fail(ray.exceptions.WorkerCrashedError())


def test_memory_is_that_of_all_parameters_and_a_fifth(tmp_path: Path) -> None:
    """2048 × 32 twice, for embedding and head; per layer 4 × 32², 3 × 32 × 48 and two norms."""
    save_base(str(tmp_path))
    count = 2 * 2048 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 32
    assert loaded_bytes(ModelSource("m", str(tmp_path), None), 2) == round(count * 2 * 1.2)
    assert loaded_bytes(ModelSource("m", str(tmp_path / "none"), None), 2) == 0
