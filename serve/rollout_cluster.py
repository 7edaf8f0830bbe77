"""Rollouts on Ray: the one actor that carries them out, and where Fusion orders them."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application, RunTarget
from ray.serve.context import _get_global_client
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from msrrec.config import Config, ModelConfig, load_config
from msrrec.errors import ConfigError, EngineError, MsrRecError, first_line
from msrrec.log import setup
from serve.args import AppArgs
from serve.figures import INGRESS, ask_versions, find_routing
from serve.http_models import HttpError
from serve.keys import Keys
from serve.limits import overloaded
from serve.rollout import Condition, Found, Plan, Refusal, Rollouts
from serve.rollout_http import RolloutRequest, RolloutState, VersionState, describe_figures
from serve.routing import Routing, Version, is_hidden, read_routing, write_routing
from serve.scaling import shutdown_seconds

logger = logging.getLogger(f"msrrec.{__name__}")

_ACTOR = {"name": "rollouts", "namespace": "msrrec"}
_BUSY_S, _IDLE_S = 0.5, 5.0
"""Seconds between steps: while something is under way, and while a promoted version is live."""
_LINGER_S = 20.0
"""Seconds from the last command until the actor may end."""
_COUNT_S = 3.0
_CONDITIONS: Mapping[str, Condition] = {
    "RUNNING": "running",
    "DEPLOY_FAILED": "failed",
    "DELETING": "ending",
    "NOT_STARTED": "absent",
}


@dataclass(frozen=True)
class Blueprint:
    """What a version is built from, so that the next one can be built alike.

    Attributes:
        args: Model and settings.
        keys: The keys that it asks for; those of the first version, in all that follow.
        build: Builds the application.
        options: Ray Serve's options of deployments by name, as of a Serve config file.
        changes: The folder of the changes of items that it was told.
    """

    args: AppArgs
    keys: Keys
    build: "Callable[[Blueprint], Application]"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: str | None = None

    @property
    def version(self) -> Version:
        """Such a version at the root, without a name."""
        drain_s = shutdown_seconds(self.args.serve)
        return Version(app="", prefix="", model=self.args.model_dir, drain_s=drain_s)

    def change(self, request: RolloutRequest) -> "Blueprint":
        """That of a version to roll out, with these settings where the request gives none.

        Raises:
            ConfigError: If a setting is unknown, out of range or of no use to a service.
        """
        args = self.args
        names = ("model", "prompt", "recommend", "inference", "serve")
        sections: dict[str, Config] = {name: getattr(args, name) for name in names}
        if request.model != args.model_dir:
            sections["model"] = ModelConfig()  # a revision is of one model
        for text in request.settings:
            if text.partition(".")[0] not in names:
                known = ", ".join(names)
                raise ConfigError(f"{text}: is no setting of a version; expected one of {known}")
        settings = load_config(None, request.settings, base=sections)
        changed = AppArgs(
            model_dir=request.model,
            adapters=args.adapters if request.adapters is None else request.adapters,
            index=request.index or args.index,
            recommendations=request.recommendations or args.recommendations,
            purchases=args.purchases,
            live_purchases=args.told_purchases,
            changes=self.changes,
            gpus_per_engine=args.gpus_per_engine,
            **{name: getattr(settings, name) for name in names},
        )
        return replace(self, args=changed)


class RayCluster:
    """``rollout.Cluster`` with the state in Ray's control service."""

    def read(self) -> Routing | None:
        """The state."""
        return read_routing()

    def write(self, routing: Routing | None) -> None:
        """Keep the state."""
        write_routing(routing)

    def find(self, app: str) -> Found:
        """How an application is."""
        found = serve.status().applications.get(app)
        if found is None:
            return Found("absent")
        messages = [found.message, *(one.message for one in found.deployments.values())]
        return Found(_CONDITIONS.get(found.status.value, "starting"), find_cause(messages))

    def delete(self, app: str) -> None:
        """Begin to remove an application."""
        serve.delete(app, _blocking=False)

    def count_open(self, app: str) -> int | None:
        """Requests that an application is at work on; None if that can't be known."""
        try:
            asked = serve.get_deployment_handle(INGRESS, app).broadcast("count_open")
            return sum(map(int, asked.results(timeout_s=_COUNT_S)))
        except (TimeoutError, RayError, RayServeException, DeploymentUnavailableError) as error:
            logger.warning("%s: its requests can't be counted (%s)", app, first_line(error))
            return None


def find_cause(messages: list[str]) -> str:
    """The line of Serve's messages, tracebacks of replicas among them, that names the error."""
    lines = [line.strip() for text in messages for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("msrrec.errors.")]
    if ours:
        return ours[-1].partition(": ")[2]
    errors = [line for line in lines if "Error: " in line]
    return [*lines[:1], *errors][-1] if lines else ""


class RolloutActor:
    """Carries out rollouts, one command at a time, while there is anything to do."""

    def __init__(self) -> None:
        setup()
        self._rollouts = Rollouts(RayCluster())
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._ordered = time.monotonic()
        threading.Thread(target=self._go_on, daemon=True).start()

    def start(self, live: Version, blueprint: Blueprint, request: RolloutRequest) -> Refusal | None:
        """Begin to start a version; see ``Rollouts.start``."""
        try:
            changed = blueprint.change(request)
        except MsrRecError as error:
            return Refusal(422, "invalid_request", str(error))
        plan = Plan(
            request.model,
            request.share,
            shutdown_seconds(changed.args.serve),
            request.start_timeout_s,
            partial(_deploy, live, changed),
        )
        return self._carry_out(lambda: self._rollouts.start(live, plan))

    def set_share(self, share: float) -> Refusal | None:
        """See ``Rollouts.set_share``."""
        return self._carry_out(lambda: self._rollouts.set_share(share))

    def promote(self) -> Refusal | None:
        """See ``Rollouts.promote``."""
        return self._carry_out(self._rollouts.promote)

    def back(self) -> Refusal | None:
        """See ``Rollouts.back``."""
        return self._carry_out(self._rollouts.back)

    def _carry_out(self, command: Callable[[], Refusal | None]) -> Refusal | None:
        with self._lock:
            refusal = command()
            self._ordered = time.monotonic()
        self._due.set()
        return refusal

    def _go_on(self) -> None:
        """Do what is due again and again, and end this actor once there is nothing left to do."""
        is_active, wait_s = True, _BUSY_S
        while is_active:
            self._due.wait(wait_s)
            self._due.clear()
            wait_s = _IDLE_S
            try:
                with self._lock:
                    # A command may have been asked for, or its answer may still be on its way.
                    is_recent = time.monotonic() - self._ordered < _LINGER_S
                    is_active = self._rollouts.step() or is_recent
                    routing = read_routing()
                    if not is_active:
                        ray.kill(ray.get_actor(**_ACTOR))
                if routing is not None and (routing.next is not None or routing.leaving):
                    wait_s = _BUSY_S
            except (RayError, RayServeException, ValueError) as error:
                logger.warning("the rollout waits (%s)", first_line(error))
                is_active = True


def _deploy(live: Version, blueprint: Blueprint, app: str, prefix: str) -> None:
    """Begin to start an application, with Serve's options of the live one.

    Raises:
        MsrRecError: If it can't be built, or Serve refuses it.
    """
    try:
        route, declared = _read_declared(live.app)
        if route != "/" and not is_hidden(route or ""):
            message = f"the service's route_prefix is {route}; expected / for a rollout"
            raise ConfigError(message)
        changed = replace(blueprint, options=declared or blueprint.options)
        target = RunTarget(changed.build(changed), name=app, route_prefix=prefix)
        serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
    except (RayServeException, RayError) as error:
        raise EngineError(f"Ray Serve did not take {app} ({first_line(error)})") from error


def _read_declared(app: str) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """An application's route, and options of its deployments in a Serve config file."""
    found = _get_global_client().get_serve_details()["applications"].get(app) or {}
    config = found.get("deployed_app_config") or {}
    options = {one["name"]: dict(one) for one in config.get("deployments") or ()}
    for one in options.values():
        del one["name"]
    return found.get("route_prefix"), options


def end_rollouts() -> None:
    """Remove all versions but the first, and forget who answers."""
    with contextlib.suppress(ValueError):  # there is no such actor
        ray.kill(ray.get_actor(**_ACTOR))
    routing = read_routing()
    if routing is None:
        return
    there = (routing.live, routing.next, *routing.leaving)
    for app in {one.app for one in there if one is not None} - {routing.base.app}:
        serve.delete(app)
    write_routing(None)


class RayDesk:
    """``rollout_http.Desk`` within a replica of Fusion."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def show(self) -> RolloutState:
        """The versions, and how they do."""
        routing = await find_routing()
        if routing is None:
            live = self._own_version()
            routing = Routing(base=live, live=live)
        figures = await ask_versions(one.app for one in routing.answering)

        def describe(version: Version, share: float, *, is_ready: bool) -> VersionState:
            families = [f for one in figures if one.app == version.app for f in one.families]
            return VersionState(
                model=version.model,
                share=share,
                state="ready" if is_ready else "starting",
                **describe_figures(families),
            )

        sent = routing.share if routing.canary else 0.0
        upcoming = routing.next
        return RolloutState(
            live=describe(routing.live, 1 - sent, is_ready=True),
            next=upcoming and describe(upcoming, routing.share, is_ready=routing.is_ready),
            leaving=tuple(one.model for one in routing.leaving),
            problem=routing.problem,
        )

    async def start(self, request: RolloutRequest) -> None:
        """Begin to start another version."""
        await self._order("start", self._own_version(), self._blueprint, request)

    async def set_share(self, share: float) -> None:
        """Send another share of the requests to it."""
        await self._order("set_share", share)

    async def promote(self) -> None:
        """Make it the live one."""
        await self._order("promote")

    async def back(self) -> None:
        """Take it back."""
        await self._order("back")

    def _own_version(self) -> Version:
        app = serve.get_replica_context().app_name
        return self._blueprint.version.model_copy(update={"app": app})

    async def _order(self, command: str, *args: Any) -> None:
        options = {"lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "num_cpus": 0}
        refusal = None
        for is_last in (False, True):
            actor = ray.remote(RolloutActor).options(**_ACTOR, **options).remote()
            try:
                refusal = await getattr(actor, command).remote(*args)
                break
            except RayActorError as error:  # it had just ended, as there was nothing left to do
                if is_last:
                    raise overloaded("the rollout's process was lost; ask again") from error
        if refusal is not None:
            raise HttpError(refusal.status, refusal.kind, refusal.message)
