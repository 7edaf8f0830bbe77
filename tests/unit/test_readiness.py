"""Engines that are started, replaced or beyond hope, as /readyz tells them apart."""

import pytest
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from ray.serve.schema import DeploymentStatusOverview

from serve.readiness import Readiness, readiness
from tests.support.service import World

TRIGGER = DeploymentStatusTrigger.UNSPECIFIED
HEALTHY = DeploymentStatusOverview(DeploymentStatus.HEALTHY, TRIGGER, {ReplicaState.RUNNING: 1}, "")


def engine(status: str, running: int = 0, message: str = "") -> DeploymentStatusOverview:
    states = {ReplicaState.RUNNING: running} if running else {ReplicaState.STARTING: 1}
    return DeploymentStatusOverview(DeploymentStatus(status), TRIGGER, states, message)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (HEALTHY, "ready"),
        (engine("UPDATING"), "starting"),
        (engine("UPDATING", message="A replica failed to start. Retrying 2 more"), "starting"),
        (engine("DEPLOY_FAILED", message="failed to start 3 times in a row"), "broken"),
        (engine("UNHEALTHY", message="A replica's health check failed."), "starting"),
        (engine("UNHEALTHY", message="A replica failed to start with exception."), "broken"),
        (engine("UNHEALTHY", running=1, message="A replica failed to start."), "ready"),
        (engine("UPSCALING", running=1), "ready"),
    ],
)
def test_a_service_is_as_ready_as_its_worst_engine(
    other: DeploymentStatusOverview, expected: Readiness
) -> None:
    assert readiness([HEALTHY, other], may_sleep=False) == expected
    assert readiness([other, HEALTHY], may_sleep=False) == expected


def test_engines_that_may_sleep_are_ready_unless_they_fail_to_start() -> None:
    assert readiness([engine("HEALTHY")], may_sleep=True) == "ready"
    assert readiness([engine("DEPLOY_FAILED")], may_sleep=True) == "broken"


@pytest.mark.parametrize(("state", "status"), [("starting", 503), ("ready", 200), ("broken", 503)])
def test_the_route_tells_the_state(state: Readiness, status: int) -> None:
    world = World()
    world.readiness = state
    response = world.call("GET", "/readyz")
    assert (response.status_code, response.json()) == (status, {"status": state})
