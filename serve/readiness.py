"""Whether the service can answer: it starts, is ready, or is broken and needs a person."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentStatusOverview, ReplicaState

from msrrec.errors import first_line

logger = logging.getLogger(f"msrrec.{__name__}")

Readiness = Literal["starting", "ready", "broken"]

_LIMIT_S = 3.0
"""Seconds within which Serve's controller must answer."""

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


class Teller:
    """Tells readiness to whoever asks, and asks the controller one question at a time.

    Everybody may ask, and a controller whose node falls silent does not answer: questions to it
    must neither add up nor take the threads in which other work is done. Until there is an answer
    again, that of before holds, as engines go on without a controller.
    """

    def __init__(self, ask: Callable[[], Readiness], limit_s: float = _LIMIT_S) -> None:
        """Know nothing yet.

        Args:
            ask: Asks the controller; called in a thread.
            limit_s: Seconds that whoever asks waits for its answer.
        """
        self._ask, self._limit_s = ask, limit_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._asked: asyncio.Future[Readiness] | None = None
        self._known: Readiness = "starting"

    async def tell(self) -> Readiness:
        """The readiness as of now, or as it was known last."""
        asked = self._asked
        if asked is None or asked.done():
            asked = asyncio.get_running_loop().run_in_executor(self._thread, self._ask)
            self._asked = asked
        done, _ = await asyncio.wait([asked], timeout=self._limit_s)
        try:
            self._known = asked.result() if done else self._known
        except (RayError, RayServeException) as error:
            logger.warning("readiness can't be known (%s)", first_line(error))
        return self._known
