"""Figures of all replicas, and of all versions that answer, asked by one of them."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from msrrec.errors import first_line
from serve.routing import Routing, read_routing

logger = logging.getLogger(f"msrrec.{__name__}")

INGRESS = "Fusion"
"""The deployment of each version that answers HTTP."""
_FIGURES_S = 3.0
"""Seconds within which other replicas must tell their metrics."""


@dataclass(frozen=True)
class Figures:
    """The metrics of one replica.

    Attributes:
        app: The application that it belongs to.
        version: Of the model that it serves.
        replica: Its id.
        families: The metrics.
    """

    app: str
    version: str
    replica: str
    families: list[Metric]


async def ask_versions(apps: Iterable[str]) -> list[Figures]:
    """The figures of all replicas of some applications, as far as they answer."""
    found = await asyncio.gather(*map(_ask_replicas, apps))
    return [figures for of_one in found for figures in of_one]


async def _ask_replicas(app: str) -> list[Figures]:
    try:
        asked = serve.get_deployment_handle(INGRESS, app).broadcast("figures")
        found = await asked.results_async(timeout_s=_FIGURES_S, return_exceptions=True)
    except (TimeoutError, DeploymentUnavailableError, RayServeException) as error:
        logger.warning("%s: metrics of its replicas can't be had (%s)", app, first_line(error))
        return []
    return [one for one in found if isinstance(one, Figures)]


async def find_routing() -> Routing | None:
    """The state of the rollout; None also where it can't be read now."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(read_routing), _FIGURES_S)
    except (RayError, TimeoutError, ValueError) as error:  # as while the head restarts
        logger.warning("the state of rollouts can't be read (%s)", first_line(error))
        return None
