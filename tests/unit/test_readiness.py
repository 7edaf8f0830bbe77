"""Engines that are started, replaced or beyond hope, as /readyz tells them apart."""

import asyncio
import threading

import pytest
from ray.exceptions import RayError
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from ray.serve.schema import DeploymentStatusOverview

from serve.readiness import Readiness, Teller, readiness
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


def test_a_controller_that_does_not_answer_is_asked_once_and_what_was_known_holds() -> None:
    silent, asked = threading.Event(), []

    def ask() -> Readiness:
        asked.append(1)
        if len(asked) == 2:
            silent.wait(30)
        return "ready" if len(asked) < 3 else "broken"

    async def go() -> None:
        teller = Teller(ask, limit_s=0.05)
        assert await teller.tell() == "ready"
        assert await asyncio.gather(*(teller.tell() for _ in range(50))) == ["ready"] * 50
        assert len(asked) == 2
        silent.set()
        while await teller.tell() != "broken":  # it answers again
            await asyncio.sleep(0.01)

    asyncio.run(go())


def test_a_controller_that_fails_leaves_what_was_known() -> None:
    found: list[Readiness] = ["ready"]

    def ask() -> Readiness:
        if not found:
            raise RayError("lost")
        return found.pop()

    async def go() -> list[Readiness]:
        teller = Teller(ask)
        return [await teller.tell(), await teller.tell()]

    assert asyncio.run(go()) == ["ready", "ready"]
