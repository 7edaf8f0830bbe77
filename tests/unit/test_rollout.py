"""Rollouts: commands, what follows from them in time, the routes and the command line."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from msrrec.config import ModelConfig, ServeConfig
from msrrec.errors import ConfigError, ModelError
from serve.app import check_room
from serve.args import AppArgs
from serve.http_models import HttpError
from serve.keys import KeyRing, Keys
from serve.metrics import Metrics
from serve.rollout import SETTLE_S, Found, Plan, Refusal, Rollouts
from serve.rollout_cluster import Blueprint, find_cause
from serve.rollout_http import (
    RolloutRequest,
    RolloutState,
    VersionState,
    add_rollout,
    describe_figures,
    median,
)
from serve.routing import Routing, Version
from tests.support.cli import Commands
from tests.support.service import World, error_of

OLD = Version(app="service", prefix="", model="runs/old", drain_s=70)


class Machines:
    """A cluster whose applications are as a test says."""

    def __init__(self) -> None:
        self.state: Routing | None = None
        self.apps: dict[str, Found] = {"service": Found("running")}
        self.open: dict[str, int | None] = {}
        self.now = 1000.0
        self.rollouts = Rollouts(self, lambda: self.now)

    def read(self) -> Routing | None:
        return self.state

    def write(self, routing: Routing | None) -> None:
        self.state = routing

    def find(self, app: str) -> Found:
        return self.apps.get(app, Found("absent"))

    def delete(self, app: str) -> None:
        self.apps[app] = Found("ending")

    def count_open(self, app: str) -> int | None:
        return self.open.get(app, 0)

    def plan(self, error: Exception | None = None) -> Plan:
        def deploy(app: str, prefix: str) -> None:
            assert self.state is not None  # kept first, so that a successor can clean up
            if error is not None:
                raise error
            self.apps[app] = Found("starting")

        return Plan("runs/new", 0.1, 70, 600, deploy)

    def begin(self) -> Routing:
        """A rollout whose next version is ready."""
        assert self.rollouts.start(OLD, self.plan()) is None
        assert self.state is not None
        assert self.state.next is not None
        self.apps[self.state.next.app] = Found("running")
        self.rollouts.step()
        return self.state

    def pass_time(self, seconds: float) -> bool:
        self.now += seconds
        return self.rollouts.step()


def kind(refusal: Refusal | None) -> str:
    assert refusal is not None
    return refusal.kind


def test_a_version_gets_its_share_only_once_it_is_ready() -> None:
    machines = Machines()
    assert machines.rollouts.start(OLD, machines.plan()) is None
    machines.pass_time(100)
    assert machines.state is not None
    assert (machines.state.live, machines.state.canary, machines.state.share) == (OLD, None, 0.1)
    machines.apps["service-1"] = Found("running")
    assert machines.pass_time(1)
    assert machines.state.canary is not None
    assert (machines.state.canary.app, machines.state.canary.prefix) == ("service-1", "/.msrrec/1")


def test_a_second_rollout_waits_for_the_end_of_the_first() -> None:
    machines = Machines()
    machines.begin()
    refusal = machines.rollouts.start(OLD, machines.plan())
    assert refusal is not None
    assert refusal.message.startswith("a rollout is under way: runs/new gets its share; end it")
    machines.rollouts.promote()
    assert kind(machines.rollouts.start(OLD, machines.plan())) == "rollout_under_way"


@pytest.mark.parametrize("command", [Rollouts.promote, Rollouts.back])
def test_without_a_next_version_there_is_nothing_to_end(
    command: Callable[[Rollouts], Refusal | None],
) -> None:
    machines = Machines()
    assert kind(command(machines.rollouts)) == "no_rollout"
    assert kind(machines.rollouts.set_share(0.5)) == "no_rollout"
    assert machines.state is None


def test_a_version_that_still_starts_can_be_taken_back_but_not_promoted() -> None:
    machines = Machines()
    machines.rollouts.start(OLD, machines.plan())
    assert kind(machines.rollouts.promote()) == "not_ready"
    assert machines.rollouts.back() is None
    machines.pass_time(0)
    assert machines.apps["service-1"] == Found("ending")  # at once, as it was never asked


def test_promoted_versions_answer_all_and_the_old_one_goes_once_its_requests_have_ended() -> None:
    machines = Machines()
    new = machines.begin().next
    assert machines.rollouts.promote() is None
    assert machines.state is not None
    assert (machines.state.live, machines.state.next) == (new, None)
    machines.open["service"] = 1
    assert machines.pass_time(SETTLE_S + 5)
    assert machines.apps["service"] == Found("running")
    machines.open["service"] = 0
    machines.pass_time(1)
    assert machines.apps["service"] == Found("ending")
    del machines.apps["service"]
    assert machines.pass_time(1)
    assert (machines.state.live, machines.state.leaving) == (new, ())


@pytest.mark.parametrize("count", [1, None])
def test_requests_that_do_not_end_or_can_not_be_counted_get_their_time(count: int | None) -> None:
    machines = Machines()
    machines.begin()
    machines.rollouts.promote()
    machines.open["service"] = count
    machines.pass_time(SETTLE_S + 70)
    assert machines.apps["service"] == Found("running")
    machines.pass_time(1)
    assert machines.apps["service"] == Found("ending")


def test_back_sends_all_to_the_old_version_at_once_and_leaves_nothing_behind() -> None:
    machines = Machines()
    machines.begin()
    machines.rollouts.back()
    assert machines.state is not None
    assert (machines.state.live, machines.state.canary) == (OLD, None)
    machines.pass_time(SETTLE_S)
    assert machines.apps.pop("service-1") == Found("ending")
    assert not machines.pass_time(1)
    assert (machines.state, set(machines.apps)) == (None, {"service"})


def test_a_version_that_can_not_be_built_changes_nothing() -> None:
    machines = Machines()
    error = ModelError("runs/new: no such folder")
    refusal = machines.rollouts.start(OLD, machines.plan(error))
    assert refusal == Refusal(422, "invalid_request", "runs/new: no such folder")
    assert not machines.pass_time(1)
    assert (machines.state, set(machines.apps)) == (None, {"service"})


@pytest.mark.parametrize(
    ("found", "seconds", "problem"),
    [
        (Found("failed", "no memory"), 1, "runs/new: did not start (no memory)"),
        (Found("starting"), 600, "runs/new: did not start in time"),
        (Found("absent"), 1, "runs/new: its application was removed from Serve"),
    ],
)
def test_a_version_that_does_not_start_says_why_and_leaves_nothing_behind(
    found: Found, seconds: float, problem: str
) -> None:
    machines = Machines()
    machines.rollouts.start(OLD, machines.plan())
    machines.apps["service-1"] = found
    machines.pass_time(seconds)
    machines.apps.pop("service-1")
    assert not machines.pass_time(1)
    assert machines.state is not None
    assert (machines.state.live, machines.state.next) == (OLD, None)
    assert (machines.state.problem, machines.state.leaving) == (problem, ())
    assert machines.rollouts.start(OLD, machines.plan()) is None
    assert machines.state.next is not None
    assert (machines.state.next.app, machines.state.problem) == ("service-2", None)


def test_a_version_that_falls_ill_stays_as_the_live_one_answers_for_it() -> None:
    machines = Machines()
    machines.begin()
    machines.apps["service-1"] = Found("failed", "an engine died")
    machines.pass_time(1000)
    assert machines.state is not None
    assert machines.state.canary is not None


def test_the_first_version_takes_over_where_it_is_deployed_anew() -> None:
    machines = Machines()
    machines.begin()
    machines.rollouts.promote()
    machines.pass_time(SETTLE_S)
    del machines.apps["service"]
    machines.pass_time(1)
    machines.apps["service"] = Found("starting")  # someone applies the manifest
    machines.pass_time(1)
    assert machines.state is not None
    assert machines.state.live.app == "service-1"
    machines.apps["service"] = Found("running")
    machines.pass_time(1)
    assert machines.state.live == OLD
    machines.pass_time(SETTLE_S)
    del machines.apps["service-1"]
    assert not machines.pass_time(1)
    assert machines.state is None


# What a version is built from


BLUEPRINT = Blueprint(
    AppArgs(
        model_dir="hub/old",
        adapters={"Toys": "runs/toys"},
        index="index",
        model=ModelConfig(revision="abc"),
        serve=ServeConfig(share_engine=False),
    ),
    Keys(),
    lambda _: None,  # type: ignore[arg-type]
)


def test_a_version_has_the_settings_of_the_live_one_but_for_those_that_are_given() -> None:
    settings = ("inference.temperature=0.5", "serve.deadline_s=9")
    request = RolloutRequest(model="hub/new", settings=settings, recommendations="offers")
    args = BLUEPRINT.change(request).args
    assert (args.model_dir, args.index, args.recommendations) == ("hub/new", "index", "offers")
    assert (args.inference.temperature, args.serve.deadline_s) == (0.5, 9)
    assert not args.serve.share_engine
    assert args.model.revision is None  # that of another model is none of this one
    same = BLUEPRINT.change(RolloutRequest(model="hub/old"))
    assert same.args == BLUEPRINT.args
    assert args.purchases is None  # the live one holds no recommendations
    assert args.adapters == {"Toys": "runs/toys"}
    others = RolloutRequest(model="hub/new", adapters={"Books": "runs/books"})
    assert BLUEPRINT.change(others).args.adapters == {"Books": "runs/books"}
    assert BLUEPRINT.change(RolloutRequest(model="hub/new", adapters={})).args.adapters == {}


def test_all_versions_keep_purchases_in_the_folder_of_the_first() -> None:
    first = AppArgs(model_dir="m", recommendations="s3://b/offers?region=eu")
    second = replace(BLUEPRINT, args=first).change(
        RolloutRequest(model="m2", recommendations="offers2")
    )
    third = second.change(RolloutRequest(model="m3"))
    kept = {one.told_purchases for one in (first, second.args, third.args)}
    assert kept == {"s3://b/offers.purchases?region=eu"}
    copied = [one.copied_purchases for one in (first, second.args, third.args)]
    assert copied == [None, "offers2.purchases", "offers2.purchases"]
    assert third.args.recommendations == "offers2"
    named = AppArgs(model_dir="m", recommendations="offers", purchases="told")
    changed = replace(BLUEPRINT, args=named).change(RolloutRequest(model="m", recommendations="n"))
    assert (changed.args.told_purchases, changed.args.copied_purchases) == ("told", None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.alpha=1", "train.alpha=1: is no setting of a version; expected one of model, "),
        ("inference.sed=1", "inference.sed"),
        ("serve.min_replicas=3", r"min_replicas \(3\) must not exceed max_replicas \(1\)"),
    ],
)
def test_settings_that_no_version_has_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BLUEPRINT.change(RolloutRequest(model="hub/new", settings=(setting,)))


def test_a_machine_without_room_for_more_engines_says_so_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve.app.is_local", lambda: True)
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    with pytest.raises(ConfigError, match="2 more engines need 2 CPU beside those of the live"):
        check_room(BLUEPRINT.args)
    check_room(AppArgs(model_dir="m"))  # one engine for both sides
    monkeypatch.setattr("serve.app.is_local", lambda: False)
    check_room(BLUEPRINT.args)  # a cluster may grow


def test_the_cause_of_a_failure_is_the_line_that_names_our_error() -> None:
    trace = "Traceback\n  File x\nValueError: no\nmsrrec.errors.ModelError: runs/new: torn\n"
    assert find_cause(["failed to start", trace]) == "runs/new: torn"
    assert find_cause(["", "it waits\nRuntimeError: no memory"]) == "RuntimeError: no memory"
    assert find_cause([""]) == ""


# Over HTTP


class Orders:
    """A desk that notes what is ordered, and refuses what a test wants refused."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.refusal: HttpError | None = None
        live = VersionState(model="runs/old", state="ready", share=0.9, requests=9, p50_s=0.25)
        upcoming = VersionState(model="runs/new", version="v2", state="ready", share=0.1, errors=1)
        self.states = [RolloutState(live=live, next=upcoming)]

    async def show(self) -> RolloutState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    async def start(self, request: RolloutRequest) -> None:
        self._take(request.model_dump(exclude_unset=True))

    async def set_share(self, share: float) -> None:
        self._take(share)

    async def promote(self) -> None:
        self._take("promote")

    async def back(self) -> None:
        self._take("back")

    def _take(self, order: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.taken.append(order)


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def world(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> World:
    """A service with that desk, which the command line reaches."""
    world = World()
    add_rollout(world.app, orders)

    def answer(request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "application/json"}
        path, content = request.url.path, request.content
        found = world.call(request.method, path, content=content, headers=headers)
        return httpx2.Response(found.status_code, content=found.content)

    client, transport = httpx2.Client, httpx2.MockTransport(answer)
    monkeypatch.setattr(httpx2, "Client", lambda **given: client(transport=transport, **given))
    return world


def test_each_step_is_a_request_and_the_page_of_the_api_names_it(
    world: World, orders: Orders
) -> None:
    started = world.call("POST", "/v1/rollout", json={"model": "runs/new", "share": 0.1})
    world.call("PATCH", "/v1/rollout", json={"share": 0.5})
    world.call("POST", "/v1/rollout/promote")
    world.call("DELETE", "/v1/rollout")
    assert orders.taken == [{"model": "runs/new", "share": 0.1}, 0.5, "promote", "back"]
    assert (started.status_code, started.json()["next"]["version"]) == (202, "v2")
    paths = world.call("GET", "/openapi.json").json()["paths"]
    assert set(paths["/v1/rollout"]) == {"get", "post", "patch", "delete"}
    assert "/v1/rollout" in world.call("GET", "/docs").text


@pytest.mark.parametrize("body", [{}, {"model": "m", "share": 1.5}, {"model": "m", "shares": 1}])
def test_what_is_no_rollout_is_refused_with_its_field(world: World, body: dict[str, Any]) -> None:
    response = world.call("POST", "/v1/rollout", json=body)
    assert response.status_code == 422
    assert error_of(response)["field"] in ("model", "share", "shares")


def status(ring: KeyRing, token: str, path: str, host: str = "127.0.0.1") -> int:
    headers = [(b"authorization", f"Bearer {token}".encode())]
    try:
        ring.check({"path": path, "method": "GET", "headers": headers, "server": (host, 8000)})
    except HttpError as error:
        return error.status
    return 200


@pytest.mark.parametrize("path", ["/v1/rollout", "/v1/rollout/promote"])
def test_rollouts_need_the_admin_key_or_a_service_of_this_machine_alone(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServeConfig(listen_without_key=True)
    ring = KeyRing(Keys.read(settings), settings)
    assert [status(ring, "", path, host) for host in ("127.0.0.1", "10.0.0.1")] == [200, 401]
    monkeypatch.setenv("MSRREC_API_KEY", "client")
    ring = KeyRing(Keys.read(settings), settings)
    assert status(ring, "client", path) == 403
    monkeypatch.setenv("MSRREC_ADMIN_KEY", "operator")
    ring = KeyRing(Keys.read(settings), settings)
    assert [status(ring, key, path) for key in ("client", "operator", "")] == [401, 200, 401]


def test_figures_tell_requests_errors_and_the_median() -> None:
    world = World()
    metrics: Metrics = world.api.metrics
    for seconds in (0.3, 0.6, 0.7, 0.8):  # buckets end at 0.25, 0.5, 1
        metrics.seconds.labels("fused", "live", "v1").observe(seconds)
    for status, count in (("200", 5), ("422", 2), ("503", 1)):
        metrics.requests.labels(status).inc(count)
    found = describe_figures([*metrics.families(), *metrics.families()])  # of two replicas
    assert (found["requests"], found["errors"], found["version"]) == (16, 2, "v1")
    # 2 of 8 are below 0.5, and 6 from there to 1: the fourth lies a third of the way
    assert found["p50_s"] == pytest.approx(0.5 + 0.5 / 3)


def test_a_median_is_none_without_requests_and_the_last_limit_beyond_it() -> None:
    assert median({}) is median({1.0: 0.0, float("inf"): 0.0}) is None
    assert median({1.0: 0.0, float("inf"): 3.0}) == 1.0


# On the command line


def test_the_command_starts_a_version_and_waits_until_it_is_ready(
    world: World, orders: Orders, msrrec: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    ready = orders.states[0]
    assert ready.next is not None
    starts = ready.next.model_copy(update={"state": "starting"})
    orders.states[:0] = [ready.model_copy(update={"next": starts})] * 3
    ended = msrrec("rollout", "--model", "hub/new", "--share", "0.1", "inference.seed=2")
    assert orders.taken == [{"model": "hub/new", "share": 0.1, "settings": ("inference.seed=2",)}]
    assert (ended.code, ended.summary["next"]["state"]) == (0, "ready")
    assert "live: runs/old" in ended.err
    assert "gets 10 % of the requests; 0 so far, 1 errors, p50 -" in ended.err


def test_a_version_is_started_with_adapters_by_domain(
    world: World, orders: Orders, msrrec: Commands
) -> None:
    adapters = ("--adapter", "Toys=s3://b/toys", "--adapter", "Books=/runs/books")
    assert msrrec("rollout", "--model", "hub/new", *adapters).code == 0
    (taken,) = orders.taken
    assert taken["adapters"] == {"Toys": "s3://b/toys", "Books": "/runs/books"}
    ended = msrrec("rollout", *adapters)
    assert (ended.code, ended.sentence.partition(":")[0]) == (2, "--model")


@pytest.mark.parametrize(
    ("options", "order"),
    [(["--share", "0.5"], [0.5]), (["--promote"], ["promote"]), (["--back"], ["back"]), ([], [])],
)
def test_each_option_is_one_step(
    world: World, orders: Orders, msrrec: Commands, options: list[str], order: list[Any]
) -> None:
    assert msrrec("rollout", *options).code == 0
    assert orders.taken == order


def test_why_a_version_did_not_start_is_one_sentence(
    world: World, orders: Orders, msrrec: Commands
) -> None:
    problem = "runs/new: did not start (no memory)"
    orders.states = [orders.states[0].model_copy(update={"next": None, "problem": problem})]
    ended = msrrec("rollout", "--model", "runs/new")
    assert (ended.code, ended.sentence) == (2, problem)


def test_what_the_service_refuses_is_one_sentence(
    world: World, orders: Orders, msrrec: Commands
) -> None:
    orders.refusal = HttpError(409, "no_rollout", "there is no next version to promote")
    ended = msrrec("rollout", "--promote")
    assert (ended.code, ended.sentence) == (2, "there is no next version to promote")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--promote", "--back"], "--promote and --back: are steps of their own"),
        (["--back", "--share", "0.1"], "--back and --share: are steps of their own"),
        (["inference.seed=2"], "--model: missing"),
        (["--url", "http://127.0.0.1:9"], "--url http://127.0.0.1:9: no service answers there"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    msrrec: Commands, options: list[str], sentence: str
) -> None:
    ended = msrrec("rollout", *options)
    assert ended.code == 2
    assert ended.sentence.startswith(sentence)
