"""How many engines the service has, and what its own Ray asks of strangers."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest

from msrrec.config import ServeConfig
from serve.own_ray import ask_for_token
from serve.scaling import count_places, replica_options, shutdown_seconds, target_ongoing


@pytest.mark.parametrize("max_replicas", [2, 4, 16])
@pytest.mark.parametrize("sides", [1, 2])
def test_the_maximum_of_engines_is_reached_with_half_of_what_the_ingress_lets_through(
    max_replicas: int, sides: int
) -> None:
    limits = ServeConfig(max_replicas=max_replicas, fusion_replicas=2, max_ongoing_requests=64)
    options: Any = replica_options(limits, sides)
    scaling = options["autoscaling_config"]
    half = count_places(limits, sides) / 2
    assert half == 64 * sides
    assert math.ceil(half / scaling["target_ongoing_requests"]) == max_replicas
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, max_replicas)


def test_target_and_delays_of_autoscaling_are_settings() -> None:
    limits = ServeConfig(
        max_replicas=3, target_ongoing_requests=5, upscale_delay_s=1, downscale_delay_s=2
    )
    assert replica_options(limits, 1)["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 5,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
    }
    assert target_ongoing(ServeConfig(max_replicas=100, max_ongoing_requests=1), 1) == 1
    assert replica_options(ServeConfig(), 1) == {"num_replicas": 1}


def test_a_replica_has_as_long_to_end_as_a_request_may_take() -> None:
    assert shutdown_seconds(ServeConfig(deadline_s=90, body_timeout_s=7)) == 97


def test_a_ray_of_our_own_asks_for_a_token_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    ask_for_token("10.0.0.7:6379")
    assert "RAY_AUTH_MODE" not in os.environ
    ask_for_token(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    first = os.environ["RAY_AUTH_TOKEN"]
    assert len(first) == 64
    ask_for_token(None)
    assert os.environ["RAY_AUTH_TOKEN"] == first


def test_the_token_is_asked_for_before_ray_is_imported() -> None:
    code = "import sys, serve.own_ray, msrrec.cli; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_demo_asks_for_a_token_before_its_first_stage() -> None:
    code = (
        "import os, sys, msrrec.cli, msrrec.pipeline.demo as demo\n"
        "told = lambda *_: print(os.environ['RAY_AUTH_MODE'], len(os.environ['RAY_AUTH_TOKEN']))\n"
        "demo.run_demo = lambda *_: told() or {'ray': 'ray' in sys.modules}\n"
        "msrrec.cli.main('demo')"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["token 64", '{"ray": false}'], ended.stderr
