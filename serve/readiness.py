"""Whether the service can answer: it starts, is ready, or is broken and needs a person."""

from collections.abc import Iterable
from typing import Literal

from ray.serve.schema import DeploymentStatusOverview, ReplicaState

Readiness = Literal["starting", "ready", "broken"]

_FAILED_TO_START = "failed to start"
"""Serve says so in the message of a deployment whose new replica raised an error."""


def readiness(engines: Iterable[DeploymentStatusOverview], *, may_sleep: bool) -> Readiness:
    """What the states of the engines' deployments mean for the service.

    An engine is broken that Serve gave up starting, or one that was lost and whose successors fail
    to start. One that is being replaced is starting.

    Args:
        engines: The states of all that are needed.
        may_sleep: Whether engines may be scaled to none; the next request starts one.
    """
    states = list(engines)
    missing = [one for one in states if not one.replica_states.get(ReplicaState.RUNNING, 0)]
    if any(map(_is_broken, missing)):
        return "broken"
    return "starting" if missing and not may_sleep else "ready"


def _is_broken(engine: DeploymentStatusOverview) -> bool:
    if engine.status.value == "DEPLOY_FAILED":
        return True
    return engine.status.value == "UNHEALTHY" and _FAILED_TO_START in engine.message
