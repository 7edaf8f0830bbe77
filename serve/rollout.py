"""Rollouts: another version is started beside the live one, gets a share, and stays or goes.

One process of the cluster changes the state, step by step; each step first keeps what it is about
to do, so that a successor can go on or clean up. Requests never pass through here.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from msrrec.errors import MsrRecError
from serve.routing import HIDDEN, Routing, Version

logger = logging.getLogger(f"msrrec.{__name__}")

SETTLE_S = 3.0
"""Seconds until no proxy sends requests to a version any more that has left the state."""

Condition = Literal["absent", "starting", "running", "failed", "ending"]


@dataclass(frozen=True)
class Found:
    """How an application is, by what Serve says.

    Attributes:
        message: Why it failed.
    """

    condition: Condition
    message: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a command was not carried out.

    Attributes:
        status: The HTTP status.
        kind: A word for machines.
    """

    status: int
    kind: str
    message: str


class Cluster(Protocol):
    """What is done with Ray."""

    def read(self) -> Routing | None:
        """The state."""

    def write(self, routing: Routing | None) -> None:
        """Keep the state."""

    def find(self, app: str) -> Found:
        """How an application is."""

    def delete(self, app: str) -> None:
        """Begin to remove an application."""

    def count_open(self, app: str) -> int | None:
        """Requests that an application is at work on; None if that can't be known."""


@dataclass(frozen=True)
class Plan:
    """The version that is to be rolled out.

    Attributes:
        model: As it was asked for.
        share: Share of the requests once it is ready.
        drain_s: Seconds that its requests may take to end.
        limit_s: Seconds within which it must be ready.
        deploy: Begins to start it, as an application of a name and route.
    """

    model: str
    share: float
    drain_s: float
    limit_s: float
    deploy: Callable[[str, str], None]


class Rollouts:
    """Carries out commands, and what follows from them in time."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.time) -> None:
        self._cluster, self._clock = cluster, clock

    def start(self, live: Version, plan: Plan) -> Refusal | None:
        """Begin to start another version.

        Args:
            live: The version that answers, where nothing was rolled out before.
            plan: What to start.
        """
        before = self._cluster.read() or Routing(base=live, live=live)
        if before.next is not None:
            state = "gets its share" if before.is_ready else "starts"
            message = f"a rollout is under way: {before.next.model} {state}; end it first, by "
            return Refusal(409, "rollout_under_way", message + "promoting it or going back")
        if before.leaving:
            message = f"{before.leaving[0].model} still ends its requests; try again shortly"
            return Refusal(409, "rollout_under_way", message)
        number = before.number + 1
        app, prefix = f"{before.base.app}-{number}", f"{HIDDEN}/{number}"
        version = Version(app=app, prefix=prefix, model=plan.model, drain_s=plan.drain_s)
        begun = {
            "next": version,
            "share": plan.share,
            "is_ready": False,
            "began": self._clock(),
            "limit_s": plan.limit_s,
            "number": number,
            "problem": None,
        }
        self._cluster.write(before.model_copy(update=begun))
        try:
            plan.deploy(app, prefix)
        except MsrRecError as error:
            self._cluster.write(before)
            return Refusal(422, "invalid_request", str(error))
        logger.info("%s: starts as %s", plan.model, app)
        return None

    def set_share(self, share: float) -> Refusal | None:
        """Send another share of the requests to the next version."""
        routing = self._cluster.read()
        if routing is None or routing.next is None:
            return _no_next("share requests with")
        self._cluster.write(routing.model_copy(update={"share": share}))
        logger.info("%s: gets %g of the requests", routing.next.model, share)
        return None

    def promote(self) -> Refusal | None:
        """Send all requests to the next version, and let the live one go."""
        routing = self._cluster.read()
        if routing is None or routing.next is None:
            return _no_next("promote")
        if not routing.is_ready:
            message = f"{routing.next.model} still starts; promote it once it is ready"
            return Refusal(409, "not_ready", message)
        self._cluster.write(_make_live(routing, routing.next, self._clock()))
        logger.info("%s: is live", routing.next.model)
        return None

    def back(self) -> Refusal | None:
        """Send all requests to the live version, and let the next one go."""
        routing = self._cluster.read()
        if routing is None or routing.next is None:
            return _no_next("take back")
        self._cluster.write(_without_next(routing, None, self._clock()))
        logger.info("%s: was taken back", routing.next.model)
        return None

    def step(self) -> bool:
        """Do what is due; whether anything may become due later."""
        before = self._cluster.read()
        if before is None:
            return False
        routing = self._follow_base(before)
        if routing.next is not None:
            routing = self._follow_next(routing, routing.next)
        left = [version for version in routing.leaving if self._is_there(version)]
        routing = routing.model_copy(update={"leaving": tuple(left)})
        is_over = routing.next is None and not left and routing.live.app == routing.base.app
        if is_over and routing.problem is None:
            self._cluster.write(None)
        elif routing != before:
            self._cluster.write(routing)
        return not is_over

    def _follow_base(self, routing: Routing) -> Routing:
        """Where the first version was deployed anew, as by a changed manifest, it takes over."""
        base = routing.base
        if routing.live.app == base.app or base.app in [one.app for one in routing.leaving]:
            return routing
        if self._cluster.find(base.app).condition != "running":
            return routing
        logger.info("%s was deployed anew, and is live", base.app)
        now = self._clock()
        if routing.next is not None:
            routing = _without_next(routing, f"{base.app} was deployed anew", now)
        return _make_live(routing, base, now)

    def _follow_next(self, routing: Routing, version: Version) -> Routing:
        found, now = self._cluster.find(version.app), self._clock()
        if found.condition == "running" and not routing.is_ready:
            logger.info("%s: is ready, and gets %g of the requests", version.model, routing.share)
            return routing.model_copy(update={"is_ready": True})
        problem = None
        if found.condition in ("absent", "ending"):
            problem = f"{version.model}: its application was removed from Serve"
        elif routing.is_ready:
            return routing
        elif found.condition == "failed":
            problem = f"{version.model}: did not start ({found.message})"
        elif now >= routing.began + routing.limit_s:
            problem = f"{version.model}: did not start in time{_because(found.message)}"
        if problem is None:
            return routing
        logger.warning("%s", problem)
        return _without_next(routing, problem, now)

    def _is_there(self, version: Version) -> bool:
        """Whether a version that leaves is not yet gone; it is removed once it is at rest."""
        found = self._cluster.find(version.app)
        if found.condition == "absent":
            return False
        waited_s = self._clock() - version.left
        is_late = waited_s > SETTLE_S + version.drain_s
        if found.condition == "ending" or waited_s < SETTLE_S:
            return True
        if is_late or found.condition == "failed" or self._cluster.count_open(version.app) == 0:
            logger.info("%s: is removed", version.app)
            self._cluster.delete(version.app)
        return True


def _make_live(routing: Routing, version: Version, now: float) -> Routing:
    old = routing.live.model_copy(update={"left": now})
    changes = {"live": version, "next": None, "is_ready": False, "share": 0.0, "problem": None}
    return routing.model_copy(update={**changes, "leaving": (*routing.leaving, old)})


def _without_next(routing: Routing, problem: str | None, now: float) -> Routing:
    assert routing.next is not None
    # A version that was never asked has no requests to end.
    left = routing.next.model_copy(update={"left": now if routing.is_ready else 0.0})
    changes = {"next": None, "is_ready": False, "share": 0.0, "problem": problem}
    return routing.model_copy(update={**changes, "leaving": (*routing.leaving, left)})


def _no_next(what: str) -> Refusal:
    message = f"there is no next version to {what}; start one first"
    return Refusal(409, "no_rollout", message)


def _because(message: str) -> str:
    return f" ({message})" if message else ""
