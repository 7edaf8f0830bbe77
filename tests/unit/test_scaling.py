"""How many engines the service has."""

import math
from typing import Any

import pytest

from msrrec.config import ServeConfig
from serve.scaling import count_places, replica_options, shutdown_seconds, target_ongoing


@pytest.mark.parametrize("max_replicas", [2, 4, 16])
def test_the_maximum_of_engines_is_reached_with_half_of_what_the_ingress_lets_through(
    max_replicas: int,
) -> None:
    limits = ServeConfig(max_replicas=max_replicas, fusion_replicas=2, max_ongoing_requests=64)
    options: Any = replica_options(limits)
    scaling = options["autoscaling_config"]
    half = count_places(limits) / 2
    assert half == 64
    assert math.ceil(half / scaling["target_ongoing_requests"]) == max_replicas
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, max_replicas)


def test_target_and_delays_of_autoscaling_are_settings() -> None:
    limits = ServeConfig(
        max_replicas=3, target_ongoing_requests=5, upscale_delay_s=1, downscale_delay_s=2
    )
    assert replica_options(limits)["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 5,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
    }
    assert target_ongoing(ServeConfig(max_replicas=100, max_ongoing_requests=1)) == 1
    assert replica_options(ServeConfig()) == {"num_replicas": 1}


def test_a_replica_has_as_long_to_end_as_a_request_may_take() -> None:
    assert shutdown_seconds(ServeConfig(deadline_s=90, body_timeout_s=7)) == 97
