"""Where models run, and what a cluster must have before they do."""

import logging
from pathlib import Path

import pytest

from msrrec.cluster import count_bundles, ray_session, submission_id, wait_for_room
from msrrec.config import InferenceConfig, TrainConfig
from msrrec.engines import placement
from msrrec.engines.placement import engine_resources, trains_on_gpu, wait_for_workers
from msrrec.errors import ConfigError
from msrrec.models import ModelSource
from tests.support.clusters import show_nodes
from tests.support.models import write_safetensors

SOURCE = ModelSource("model", "model", None)
CORES, GPU_NODE = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0}


@pytest.fixture
def size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has eight billion parameters."""
    monkeypatch.setattr(placement, "count_parameters", lambda _: 8_000_000_000)


@pytest.mark.parametrize("settings", [("num_workers", None), ("min_workers", 3)])
def test_more_workers_than_cores_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, int | None]
) -> None:
    name, least = settings
    show_nodes(monkeypatch, {"CPU": 2.0}, is_local=True)
    config = TrainConfig(num_workers=4, global_batch_size=4, min_workers=least)
    expected = f"train.{name}={least or 4}: the Ray cluster has room for 2 × CPU; expected "
    with pytest.raises(ConfigError, match=expected):
        trains_on_gpu(config, SOURCE)


@pytest.mark.parametrize("is_local", [True, False])
def test_gpus_that_are_asked_for_and_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    show_nodes(monkeypatch, CORES, is_local=is_local)
    expected = r"train\.num_workers=1: the Ray cluster has room for 0 × GPU; expected 1"
    with pytest.raises(ConfigError, match=expected):
        trains_on_gpu(TrainConfig(use_gpu=True), SOURCE)


def test_training_is_on_gpus_where_there_are_some_unless_the_settings_say_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_nodes(monkeypatch, CORES, is_local=True)
    assert trains_on_gpu(TrainConfig(), SOURCE) is False
    show_nodes(monkeypatch, CORES, GPU_NODE)
    assert trains_on_gpu(TrainConfig(), SOURCE) is True
    assert trains_on_gpu(TrainConfig(use_gpu=False), SOURCE) is False


@pytest.mark.usefixtures("size")
def test_a_large_model_does_not_train_on_a_clusters_processors_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_nodes(monkeypatch, CORES)
    with pytest.raises(ConfigError, match=r"or train on processors with train\.use_gpu=false"):
        wait_for_workers(TrainConfig(), on_gpu=True)
    with pytest.raises(ConfigError, match="room for 0 × GPU"):
        trains_on_gpu(TrainConfig(), SOURCE)
    assert trains_on_gpu(TrainConfig(use_gpu=False), SOURCE) is False
    show_nodes(monkeypatch, CORES, is_local=True)
    assert trains_on_gpu(TrainConfig(), SOURCE) is False


def test_a_small_model_runs_on_a_clusters_processors_with_a_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    show_nodes(monkeypatch, CORES)
    write_safetensors(tmp_path / "model.safetensors", ("weight",))
    source = ModelSource("small", str(tmp_path), None)
    monkeypatch.setattr(logging.getLogger("msrrec"), "propagate", True)
    with caplog.at_level("INFO", logger="msrrec"):
        found = engine_resources(InferenceConfig(), 2, "inference.num_engines", source)
    assert found == {"num_cpus": 1}
    expected = "small runs on processors: the cluster has no GPU now; inference.gpus_per_engine=1"
    assert expected in caplog.text


@pytest.mark.usefixtures("size")
def test_a_large_model_is_never_put_on_a_processor_where_gpus_may_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_nodes(monkeypatch, CORES)
    expected = r"inference\.num_engines=2: .* room for 0 × \(GPU \+ CPU\); .*gpus_per_engine=0"
    with pytest.raises(ConfigError, match=expected):
        engine_resources(InferenceConfig(), 2, "inference.num_engines", SOURCE)
    asked = InferenceConfig(gpus_per_engine=0)
    assert engine_resources(asked, 2, "inference.num_engines", SOURCE) == {"num_cpus": 1}


def test_the_gpus_of_an_engine_are_its_parallel_sizes_on_one_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_nodes(monkeypatch, GPU_NODE, GPU_NODE)
    config = InferenceConfig(vllm_kwargs={"tensor_parallel_size": 2})
    assert engine_resources(config, 2, "n", SOURCE) == {"num_gpus": 2, "num_cpus": 1}
    with pytest.raises(ConfigError, match=r"room for 0 × \(4 GPU \+ CPU\); expected 1"):
        engine_resources(InferenceConfig(gpus_per_engine=4), 1, "n", SOURCE)


def test_bundles_are_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    show_nodes(monkeypatch, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 64.0})
    assert count_bundles({"GPU": 2.0, "CPU": 1.0}) == 2  # one on each of the first two nodes
    assert count_bundles({"CPU": 4.0}) == 18
    wait_for_room(2, {"GPU": 2.0}, "n")


def test_memory_is_named_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    show_nodes(monkeypatch, {"CPU": 8.0, "memory": 2.0**34})
    with pytest.raises(ConfigError, match=r"0 × \(CPU \+ 24\.0 GiB of memory\)"):
        wait_for_room(1, {"CPU": 1, "memory": 24 * 2.0**30}, "merging")


def test_the_submission_is_read_from_the_jobs_environment_and_nothing_else_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() is None
    monkeypatch.setenv(
        "RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}'
    )
    assert submission_id() == "raysubmit_1"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}}')
    assert submission_id() is None


def test_an_open_session_gets_the_time_limit_of_the_inner_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A placement group that never becomes ready stands for an autoscaler without such nodes."""
    show_nodes(monkeypatch, CORES)
    removed: list[object] = []

    class Group:
        def wait(self, seconds: float) -> bool:
            assert seconds <= 0.05
            return False

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.util.placement_group", lambda bundles: Group())
    monkeypatch.setattr("ray.util.remove_placement_group", removed.append)
    with ray_session(wait_s=0.05), pytest.raises(ConfigError, match="after 0 s"):
        wait_for_room(1, {"GPU": 1}, "n")
    assert len(removed) == 1
    with pytest.raises(ConfigError, match=r"0 × GPU; expected 1"):
        wait_for_room(1, {"GPU": 1}, "n")  # outside, at once
