"""What the certificate of the service counts, and when it says that a claim is broken."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.own_ray import prepare_serve
from tests.service import scaling
from tests.service.clients import Balancer, Expected, Seen
from tests.service.faults import Act, mix
from tests.service.load import Load, count, draw_up, make_bodies
from tests.service.misuse import BrokenError
from tests.service.report import Row, render_page, render_table, write
from tests.service.site import Replicas, Site, environments, image_environment
from tests.service.upgrade import count_names
from tests.support.clock import run_at_once

BODY = {"history": ["Camera"], "candidates": ["Lens", "Rope"], "mode": "user", "seed": 1}
SIDE = {"item": "Rope", "reasoning": "It is", "num_tokens": 3}
ANSWER = {"item": "Rope", "agreement": "agree", "ranking": [{"item": "Rope"}]}
ANSWER["sides"] = {"user": SIDE}

Respond = Callable[[httpx.Request], httpx.Response]


def ask(respond: Respond, *urls: str, **changes: Any) -> Seen:
    """What a client sees of a service, behind a balancer of some proxies."""

    async def go() -> Seen:
        balancer = Balancer(lambda: urls or ("http://one",), "key", httpx.MockTransport(respond))
        return await balancer.ask({**BODY, **changes})

    return asyncio.run(go())


def as_events(*events: tuple[str, Any]) -> httpx.Response:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return httpx.Response(200, text=text)


def delta(offset: int, text: str) -> tuple[str, Any]:
    return "delta", {"side": "user", "offset": offset, "text": text}


def test_a_client_whose_connection_breaks_asks_another_proxy() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.host == "one":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=ANSWER)

    for _ in range(2):
        seen = ask(respond, "http://one", "http://two")
        assert (seen.kind, seen.answer, seen.why) == ("answered", ANSWER, "")
    lost = ask(respond)
    assert (lost.kind, lost.tries) == ("failed", 3)


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (503, {"Retry-After": "2"}, "refused"),
        (429, {"Retry-After": "2"}, "refused"),
        (503, {}, "failed"),
        (500, {"Retry-After": "2"}, "failed"),
        (504, {"Retry-After": "2"}, "failed"),
    ],
)
def test_a_refusal_says_when_to_come_back_and_all_else_is_a_loss(
    status: int, headers: dict[str, str], kind: str
) -> None:
    seen = ask(lambda request: httpx.Response(status, headers=headers, json={}))
    assert (seen.kind, seen.tries) == (kind, 1)


def test_a_whole_stream_is_an_answer() -> None:
    seen = ask(
        lambda _: as_events(delta(0, " It"), delta(3, " is\n"), ("result", ANSWER)), stream=True
    )
    assert (seen.kind, seen.is_repeated, seen.is_wrong, seen.is_cut) == (
        *("answered", False, False, False),
    )


@pytest.mark.parametrize(
    ("events", "kind", "found"),
    [
        ([delta(0, "It"), delta(0, "It is"), ("result", ANSWER)], "answered", "repeated"),
        ([delta(0, "It is"), ("result", ANSWER), ("result", ANSWER)], "answered", "repeated"),
        ([delta(0, "At is"), ("result", ANSWER)], "answered", "wrong"),
        ([delta(0, "It")], "failed", "cut"),
        ([("error", {})], "failed", ""),
    ],
)
def test_what_is_wrong_with_a_stream_is_seen(events: list[Any], kind: str, found: str) -> None:
    seen = ask(lambda _: as_events(*events), stream=True)
    told = {"repeated": seen.is_repeated, "wrong": seen.is_wrong, "cut": seen.is_cut}
    assert (seen.kind, [name for name, is_so in told.items() if is_so]) == (
        *(kind, [found] if found else []),
    )


@pytest.mark.parametrize(
    ("item", "reasoning", "is_wrong"),
    [("Rope", "It is", False), ("Lens", "It is", True), ("Kettle", "It is", True),
     ("Rope", "It was", True)],
)  # fmt: skip
def test_an_answer_that_a_calm_service_does_not_give_is_wrong(
    item: str, reasoning: str, is_wrong: bool
) -> None:
    expected = Expected()
    expected.learn(Seen({**BODY, "stream": False}, 0, "answered", answer=ANSWER))
    answer = {**ANSWER, "item": item, "sides": {"user": {**SIDE, "reasoning": reasoning}}}
    seen = Seen({**BODY, "stream": True}, 0, "answered", answer=answer)
    expected.check(seen)
    assert seen.is_wrong is is_wrong


def test_the_figures_of_a_row_and_its_seconds() -> None:
    calm = [Seen(BODY, 8.0, "answered", 1.0), Seen(BODY, 8.5, "answered", 0.5)]
    after = [
        Seen(BODY, 10.2, "answered", 2.5, tries=2),
        Seen(BODY, 13.0, "refused", 0.1),
        Seen(BODY, 14.0, "answered", 2.1),
        Seen(BODY, 15.0, "answered", 1.9),
    ]
    tally = count([*calm, *after], fault=10.0)
    assert (tally.sent, tally.accepted, tally.refused, tally.asked_again) == (6, 5, 1, 1)
    assert (tally.noticed_s, tally.slowest_s) == (4.0, 2.5)
    assert tally.holds
    lost = count([*calm, Seen(BODY, 11.0, "failed", 3.0, why="gone")], fault=10.0)
    assert (lost.failed, lost.noticed_s, lost.why, lost.holds) == (1, 4.0, "gone", False)
    assert not count([], fault=0.0).holds
    seconds = draw_up([*calm, *after], {-2: 2, 0: 1}, fault=10.0)
    assert [(one.at_s, one.came, one.refused, one.engines) for one in seconds] == [
        *((-2, 2, 0, 2), (-1, 0, 0, None), (0, 1, 0, 1), (1, 0, 0, None), (2, 0, 0, None)),
        *((3, 1, 1, None), (4, 1, 0, None), (5, 1, 0, None)),
    ]
    assert (seconds[0].median_s, seconds[0].slowest_s, seconds[1].median_s) == (0.75, 1.0, None)


def test_a_broken_claim_is_on_every_page() -> None:
    tally = count([Seen(BODY, 1.0, "answered", 1.0)], fault=2.0)
    row = Row(
        "x", "a <proxy> is killed", "stand-in", tally, "", True, "today", draw_up([], {}, 0.0)
    )
    assert row.holds
    assert "| holds |" in render_table([row])
    for broken in (replace(row, is_whole=False), replace(row, tally=replace(tally, wrong=1))):
        assert not broken.holds
        assert "| broken |" in render_table([broken])
        page = render_page([broken]).decode()
        assert ">broken</span>" in page
        assert "a &lt;proxy&gt; is killed" in page


def test_rows_that_are_made_again_take_the_place_of_old_ones(tmp_path: Path) -> None:
    tally = count([Seen(BODY, 1.0, "answered", 1.0)], fault=2.0)
    seconds = draw_up([Seen(BODY, 1.0, "answered", 1.0)], {}, 2.0)
    old = [Row(name, name, "vLLM", tally, "", True, "then", seconds) for name in "abc"]
    write(tmp_path, old, "abc")
    write(tmp_path, [replace(old[1], made="now", is_whole=False)], "cba")
    table = (tmp_path / "certificate.md").read_text()
    found = [line.split(" | ")[:2] for line in table.splitlines()[2:]]
    assert [cells[0] for cells in found] == ["| c", "| b", "| a"]
    assert [("now" in line, "broken" in line) for line in table.splitlines()[2:]] == [
        *((False, False), (True, True), (False, False)),
    ]


def test_every_node_of_the_manifest_gives_a_silent_one_up_after_seconds() -> None:
    head, *workers = environments()  # which the nodes of the certificate have too
    assert workers == [head] * len(workers) != []
    assert int(head["RAY_grpc_client_keepalive_timeout_ms"]) <= 3000
    assert int(head["RAY_health_check_timeout_ms"]) <= 3000


def test_the_image_sets_of_ray_what_a_service_on_one_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {})
    prepare_serve()
    assert os.environ == image_environment() != {}


def test_a_service_is_whole_once_all_replicas_and_proxies_are_there() -> None:
    def replica(name: str, state: str = "RUNNING") -> dict[str, str]:
        return {"replica_id": name, "state": state}

    def tell(
        *replicas: dict[str, str], status: str = "HEALTHY", proxy: str = "HEALTHY"
    ) -> Replicas:
        engine = {"status": status, "replicas": list(replicas)}
        app = {"status": "RUNNING", "deployments": {"Engine": engine}}
        proxies = {"node": {"status": proxy, "actor_id": "p"}}
        return Replicas.read({"applications": {"msrrec": app}, "proxies": proxies})

    whole = tell(replica("a"), replica("b"))
    assert (whole.is_healthy, whole.running) == (True, {"Engine": {"a", "b"}})
    for other in (
        tell(replica("a"), replica("b", "STARTING")),
        tell(replica("a"), status="UPDATING"),
        tell(replica("a"), proxy="STARTING"),
        Replicas.read({"applications": {}, "proxies": {}}),
    ):
        assert not other.is_healthy


def test_mixed_load_has_a_fault_a_minute_and_waits_for_what_takes_longer() -> None:
    done: list[tuple[str, float]] = []

    def take(name: str, seconds: float) -> Act:
        async def act(site: Site, load: Load) -> str:
            done.append((name, asyncio.get_running_loop().time() - began[0]))
            await asyncio.sleep(seconds)
            return ""

        return act

    began: list[float] = []

    async def go() -> str:
        began.append(asyncio.get_running_loop().time())
        acts = {"a": take("a", 10), "b": take("b", 90)}
        return await mix(4, acts)(None, None)  # type: ignore[arg-type]

    assert run_at_once(go()) == "4 faults in 4 minutes: a, b, a, b"
    assert [(name, round(at_s)) for name, at_s in done] == [
        *(("a", 0), ("b", 60), ("a", 150), ("b", 180)),
    ]


def test_requests_differ_and_half_of_each_mode_are_streams() -> None:
    bodies = make_bodies(24)
    assert len({json.dumps(body) for body in bodies}) == 24
    for mode in {body["mode"] for body in bodies}:
        streams = [body["stream"] for body in bodies if body["mode"] == mode]
        assert streams.count(True) == streams.count(False)


def test_answers_are_counted_by_version_and_equal_requests_must_get_one() -> None:
    def answered(seed: int, name: str) -> Seen:
        return Seen({**BODY, "seed": seed}, 0.0, "answered", answer={"model": {"name": name}})

    seen = [answered(1, "old"), answered(2, "new"), answered(2, "new"), Seen(BODY, 0.0, "refused")]
    assert count_names(seen) == {"old": 1, "new": 2}
    with pytest.raises(BrokenError, match=r"old and new answered .*'seed': 1"):
        count_names([*seen, answered(1, "new")])


def test_the_row_of_scaling_leaves_the_service_as_it_found_it() -> None:
    class Tides:
        """As many engines as the load needs, or two with the settings of before."""

        def __init__(self) -> None:
            self.before = {"applications": [{"args": {"serve": {"min_replicas": 2}}}]}
            self.configuration: Any = self.before

        def change(self, *_: Any, **__: Any) -> None:
            self.configuration = "changed"

        def configure(self, configuration: Any) -> None:
            self.configuration = configuration

        def look(self) -> Replicas:
            needed = 3 if load.per_second > scaling.CALM_RATE else 1
            number = needed if self.configuration == "changed" else 2
            return Replicas({"Engine": frozenset(map(str, range(number)))})

        async def wait(self) -> Replicas:
            return self.look()

    site = Tides()
    balancer = Balancer(lambda: ["http://one"], "key", httpx.MockTransport(httpx.Response))
    load = Load(balancer, Expected(), [BODY], scaling.CALM_RATE)
    notes = run_at_once(scaling.scale(site, load))  # type: ignore[arg-type]
    assert notes == "from 1 to 3 engines in 0 s, and back in 0 s"
    assert (site.configuration, load.per_second) == (site.before, scaling.CALM_RATE)
