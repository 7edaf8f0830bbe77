"""Ray that can't be had is one sentence."""

from typing import Any

import pytest
import ray

from msrrec.cluster import ray_session
from msrrec.errors import EngineError


@pytest.fixture(autouse=True)
def _no_ray_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of the same process may have left their Ray running, which would be used."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    "error", [RuntimeError("no node\nof many"), OSError(28, "No space left on device")], ids=repr
)
def test_a_ray_that_does_not_start_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(EngineError, match="Ray did not start on this machine") as caught,
        ray_session(),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(EngineError, match=r"ray\.address=10\.0\.0\.9:6379: no Ray cluster"),
        ray_session("10.0.0.9:6379"),
    ):
        pass
