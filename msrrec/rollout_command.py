"""The command ``rollout``, which asks a running service for another version of its model."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msrrec import storage
from msrrec.arguments import AdapterDirs, Overrides, expand
from msrrec.command import emit
from msrrec.errors import ConfigError, EngineError
from msrrec.own_packages import import_own

if TYPE_CHECKING:
    from httpx2 import Client

logger = logging.getLogger("msrrec.cli")

HELP = "\n\n".join(
    (
        "[bold]Step by step[/bold]",
        "[cyan]msrrec rollout --model runs/new --share 0.1[/cyan]  starts it beside the live one, "
        "with engines of its own, waits until it is ready, and sends it a tenth of the requests",
        "[cyan]msrrec rollout[/cyan]  shows how both do",
        "[cyan]msrrec rollout --share 0.5[/cyan]  sends it half of them",
        "[cyan]msrrec rollout --promote[/cyan]  sends it all; the old one goes once its requests "
        "have ended",
        "[cyan]msrrec rollout --back[/cyan]  sends all to the old one at once; the new one goes",
        "Clients notice nothing: equal requests, and all of one user_id, stay with one version, "
        "and the live one answers what the next one fails to. Settings are of the sections "
        "inference, serve, recommend, prompt and model; those not given, and adapters where none "
        "are, are the live version's. "
        "The work is done within the service: after a command that was interrupted any other one "
        "may follow.",
    )
)

_ROUTE = "/v1/rollout"
_KEY = "MSRREC_ADMIN_KEY"
_LOOK_S, _SHOW_S = 1.0, 15.0
_PATIENCE_S = 600.0
"""Seconds for one answer: building a version may first copy its model to the cluster."""

State = Mapping[str, Any]
"""What the service says of its versions."""


def rollout(
    model: Annotated[
        str | None,
        typer.Option(
            help="Start this version: a folder made by `msrrec train` that the service's machines "
            "see, or a model as of `msrrec serve`."
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of the requests for the next version. Unset with --model: 0."
        ),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the next version live.")] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Send everything to the live version; end the next one.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec index`. Unset: that of the live version."),
    ] = None,
    recommendations: Annotated[
        str | None,
        typer.Option(
            help="Folder made by `msrrec recommend --out`. Unset: that of the live version."
        ),
    ] = None,
    adapter: AdapterDirs = None,
    url: Annotated[
        str, typer.Option(help=f"Address of the service; its admin key is read from {_KEY}.")
    ] = "http://127.0.0.1:8000",
    overrides: Overrides = None,
) -> None:
    """Change the model of a running service without losing a request; or show its versions."""
    shop = {"index": index, "recommendations": recommendations}
    _check(model, share, promote, back, [*shop.values(), *(adapter or ()), *(overrides or ())])
    import httpx2

    key = os.environ.get(_KEY, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=url, headers=headers, timeout=_PATIENCE_S) as client:
        if model is not None:
            body = {"model": _as_seen(model), "share": share or 0.0, "settings": overrides or []}
            _ask(client, "POST", "", {**body, **_beside(shop, adapter or ())})
            state = _wait_until_ready(client)
        elif promote:
            _ask(client, "POST", "/promote")
            state = _wait_until_gone(client)
        elif back:
            _ask(client, "DELETE")
            state = _wait_until_gone(client)
        elif share is not None:
            state = _ask(client, "PATCH", "", {"share": share})
        else:
            state = _ask(client, "GET")
    _show(state)
    emit(dict(state))


def _check(
    model: str | None, share: float | None, promote: bool, back: bool, others: list[str | None]
) -> None:
    """Refuse what does not go together.

    Raises:
        ConfigError: If there are two commands in one, or options without the one they belong to.
    """
    steps = [("--model", model is not None), ("--promote", promote), ("--back", back)]
    given = [name for name, is_given in steps if is_given]
    if len(given) > 1 or (share is not None and (promote or back)):
        both = " and ".join([*given, *(["--share"] if share is not None else [])])
        raise ConfigError(f"{both}: are steps of their own; give one of them")
    if model is None and any(others):
        raise ConfigError(
            "--model: missing; settings, --adapter, --index and --recommendations are of a model"
        )


def _beside(shop: Mapping[str, str | None], adapters: Sequence[str]) -> dict[str, object]:
    """What is given of a version beside its model, by the names of ``RolloutRequest``."""
    given: dict[str, object] = {n: _as_seen(path) for n, path in shop.items() if path is not None}
    if adapters:
        given["adapters"] = import_own("serve.adapters").name_adapters(adapters)
    return given


def _as_seen(path: str) -> str:
    """A path as the service sees it, whose working directory is another one."""
    path = expand(path)
    return storage.absolute(path) if Path(path).exists() else path


def _ask(client: "Client", method: str, below: str = "", body: object = None) -> State:
    """What the service answers.

    Raises:
        EngineError: If no service answers.
        ConfigError: If it refuses.
    """
    import httpx2

    try:
        response = client.request(method, _ROUTE + below, json=body)
        found: State = response.json()
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise EngineError(
            f"--url {client.base_url}: no service answers there ({error}); start one with "
            "`msrrec serve`, or name its address"
        ) from error
    except json.JSONDecodeError as error:
        message = f"--url {client.base_url}: what answers there is no service of this project"
        raise EngineError(message) from error
    if response.is_success:
        return found
    message = str(found.get("error", {}).get("message", f"status {response.status_code}"))
    if response.status_code == 401:
        message = f"{_KEY}: the service does not take this admin key; set the one of the service"
    if response.status_code == 404:
        message = f"--url {client.base_url}: this service knows no rollouts; expected a newer one"
    raise ConfigError(message)


def _wait_until_ready(client: "Client") -> State:
    """The state once the next version can answer.

    Raises:
        EngineError: If it did not start.
    """
    began = shown = time.monotonic()
    while True:
        state = _ask(client, "GET")
        upcoming = state["next"]
        if upcoming is None:
            raise EngineError(state["problem"] or "the next version was taken back meanwhile")
        if upcoming["state"] == "ready":
            logger.info("%s: ready after %.0f s", upcoming["model"], time.monotonic() - began)
            return state
        shown = _wait(began, shown, f"{upcoming['model']}: starts")


def _wait_until_gone(client: "Client") -> State:
    """The state once versions that get no more requests have ended theirs."""
    began = shown = time.monotonic()
    while True:
        state = _ask(client, "GET")
        if not state["leaving"]:
            return state
        shown = _wait(began, shown, f"{', '.join(state['leaving'])}: ends its last requests")


def _wait(began: float, shown: float, what: str) -> float:
    """Pause between two looks; when progress was last shown."""
    now = time.monotonic()
    if now - shown >= _SHOW_S:
        logger.info("%s; %.0f s so far", what, now - began)
        shown = now
    time.sleep(_LOOK_S)
    return shown


def _show(state: State) -> None:
    """Tell people how the versions do."""
    for role in ("live", "next"):
        if (one := state[role]) is None:
            continue
        gets = "gets" if one["state"] == "ready" else "is to get"
        median = "-" if one["p50_s"] is None else f"{one['p50_s']:.2f} s"
        logger.info(
            "%s: %s (version %s), %s, %s %.4g %% of the requests; %d so far, %d errors, p50 %s",
            *(role, one["model"], one["version"] or "not known yet", one["state"]),
            *(gets, 100 * one["share"], one["requests"], one["errors"], median),
        )
    if state["problem"]:
        logger.warning("the latest rollout ended by itself: %s", state["problem"])
