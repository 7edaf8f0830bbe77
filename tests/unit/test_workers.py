"""What a cluster must have for training to begin on it."""

import pytest

from msrrec.config import TrainConfig
from msrrec.errors import ConfigError
from msrrec.training.loop import check_cluster


@pytest.mark.parametrize("settings", [("num_workers", None), ("min_workers", 3)])
def test_more_workers_than_cores_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, int | None]
) -> None:
    name, least = settings
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    config = TrainConfig(num_workers=4, global_batch_size=4, min_workers=least)
    expected = f"train.{name}={least or 4}: the Ray cluster has 2 CPUs; expected one per worker"
    with pytest.raises(ConfigError, match=expected):
        check_cluster(config)


def test_gpus_that_are_asked_for_and_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0})
    with pytest.raises(ConfigError, match=r"train\.num_workers=1: the Ray cluster has 0 GPUs"):
        check_cluster(TrainConfig(use_gpu=True))
    assert check_cluster(TrainConfig()) is False
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    assert check_cluster(TrainConfig()) is True
    assert check_cluster(TrainConfig(use_gpu=False)) is False
