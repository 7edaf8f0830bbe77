"""The service over HTTP on Ray Serve: the real routing and recovery, on engines of the test's own,
and once on vLLM.
"""

import asyncio
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from msrrec.config import InferenceConfig, RecommendConfig, ServeConfig
from msrrec.embedded.backbone.tokenizer import train_tokenizer
from msrrec.models import TypicalCustomer
from msrrec.retrieval.folder import save_index
from tests.support import serving
from tests.support.cli import Commands
from tests.support.offers import make_offer, write_offers
from tests.support.retrieval import build_shop_index, write_shop_dataset

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

ASK = "/v1/recommend"
BODY: dict[str, Any] = {
    "domain": "Electronics",
    "history": ["Trail Camera"],
    "candidates": ["Lens", "Rope", "Kettle"],
}
KEY, ADMIN_KEY = "open sesame", "abracadabra"
EXAMPLE: TypicalCustomer = {"history": ["Trail Camera"], "candidates": ["Lens", "Rope"]}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a config, which is all that the fusion deployment reads."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(["Lens Rope Kettle Trail Camera"] * 20).save_pretrained(folder)
    LlamaConfig(max_position_embeddings=2048).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def crash_mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash") / "mark"


@pytest.fixture(scope="module")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of six items in ``index``, and offers to a user in ``offers``."""
    folder = tmp_path_factory.mktemp("shop")
    built = build_shop_index(write_shop_dataset(folder / "data"), "weights.words=3")
    save_index(built, str(folder / "index"))
    write_offers(folder / "offers", [make_offer("ann", 1, "stove"), make_offer("ann", 2, "mug")])
    return folder


@pytest.fixture(scope="module")
def url(model_folder: Path, crash_mark: Path, shop_folder: Path) -> Iterator[str]:
    """The application on fake engines, behind the key ``KEY``."""
    from ray import cloudpickle, serve

    from serve import app
    from serve.keys import Keys
    from serve.rollout_cluster import Blueprint, end_rollouts

    cloudpickle.register_pickle_by_value(serving)  # workers can't import tests
    args = app.AppArgs(
        model_dir=str(model_folder),
        index=str(shop_folder / "index"),
        recommendations=str(shop_folder / "offers"),
        recommend=RecommendConfig(num_candidates=4),
        serve=ServeConfig(
            api_key_env="MSRREC_TEST_KEY",
            admin_key_env="MSRREC_TEST_ADMIN_KEY",
            deadline_s=600,
            max_ongoing_requests=8,
            max_queued_requests=70,
            max_body_bytes=100_000,
            share_engine=False,
        ),
        inference=InferenceConfig(max_new_tokens=64),
    )
    port = app.free_port("127.0.0.1", 0)
    build = partial(serving.build, str(crash_mark), EXAMPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSRREC_TEST_KEY", KEY)
        patch.setenv("MSRREC_TEST_ADMIN_KEY", ADMIN_KEY)
        application = build(Blueprint(args, Keys.read(args.serve), build))
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application, name="fakes", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    end_rollouts()
    assert set(serve.status().applications) <= {"fakes"}
    serve.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=900) as client:
        yield client


@pytest.fixture
def admin(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=900) as client:
        yield client


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def ask_many(
    url: str, bodies: list[dict[str, Any]], answered: Callable[[int], Any] = lambda status: None
) -> list[httpx.Response]:
    async def ask(body: dict[str, Any]) -> httpx.Response:
        response = await client.post(ASK, json=body)
        answered(response.status_code)
        return response

    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=900, limits=limits
    ) as client:
        return await asyncio.gather(*map(ask, bodies))


def test_both_sides_answer_and_the_lower_perplexity_is_chosen(client: httpx.Client) -> None:
    answer = client.post(ASK, json=BODY).json()
    assert (answer["item"], answer["index"], answer["agreement"]) == ("Rope", 1, "agree")
    assert answer["side"] == "user"
    assert answer["perplexity"] == pytest.approx(math.exp(0.5))
    assert answer["sides"]["item"]["perplexity"] == pytest.approx(math.e)
    assert answer["reasoning"] == "Step 1. It is Rope."


def test_an_item_is_recommended_within_a_second_of_being_put(
    client: httpx.Client, admin: httpx.Client
) -> None:
    ask = {"history": [{"id": "stove"}], "top_k": 4}
    assert admin.put("/v1/items/gas", json={"title": "Camping stove gas"}).status_code == 200
    put = time.monotonic()
    answer = client.post(ASK, json=ask).json()
    assert time.monotonic() - put < 1
    assert "gas" in [row["id"] for row in answer["ranking"]]
    assert (answer["source"], answer["retrieved"], len(answer["ranking"])) == ("live", 4, 4)
    assert admin.delete("/v1/items/gas").status_code == 200
    answer = client.post(ASK, json=ask).json()
    assert "gas" not in [row["id"] for row in answer["ranking"]]


def test_a_user_who_is_named_alone_gets_what_was_made_before_and_a_purchase_renews_it(
    client: httpx.Client,
) -> None:
    ask = {"user_id": "ann", "top_k": 2}
    answer = client.post(ASK, json=ask).json()
    assert (answer["source"], answer["id"], answer["model"]["version"]) == ("stored", "stove", "m1")
    told = client.post("/v1/users/ann/purchases", json={"items": [{"id": "stove"}]})
    assert (told.status_code, told.json()["history"]) == (202, 2)
    for _ in range(100):
        answer = client.post(ASK, json=ask).json()
        assert "stove" not in [row["id"] for row in answer["ranking"]]
        if answer["model"]["version"] != "m1":
            break
        time.sleep(0.05)
    assert answer["source"] == "stored"
    assert answer["reasoning"].startswith("Step 1. It is")


def test_a_stream_arrives_while_it_is_written_and_ends_in_the_result(
    client: httpx.Client, crash_mark: Path
) -> None:
    body = {**BODY, "candidates": ["Lens", "held Rope " * 12, "Kettle"], "stream": True}
    num_arrived = 0
    texts = {"user": "", "item": ""}
    with client.stream("POST", ASK, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for name, data in events_of(response.iter_lines()):
            num_arrived += 1
            crash_mark.with_name("go on").touch()  # no engine writes on before a piece has come
            last = name, data
            if name == "delta":
                assert data["offset"] == len(texts[data["side"]])
                texts[data["side"]] += data["text"]
    assert last[0] == "result"
    assert num_arrived >= 4  # two of the side that came first, one of the other, the result
    for side, text in texts.items():
        assert text.startswith(last[1]["sides"][side]["reasoning"] + "\n[reasoning_end]")


def test_a_client_that_leaves_does_not_end_what_an_equal_request_waits_for(
    url: str, crash_mark: Path
) -> None:
    go_on = crash_mark.with_name("go on")
    go_on.unlink(missing_ok=True)
    at_work = r'msrrec_ongoing_requests\{replica="\w+",version="\w+"\} 1'
    body = {**BODY, "candidates": ["Lens", "held Rope shared", "Kettle"]}

    async def go() -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=900) as client:
            first = asyncio.create_task(client.post(ASK, json=body))
            while not re.search(at_work, (await client.get("/metrics")).text):
                await asyncio.sleep(0.02)
            second = asyncio.create_task(client.post(ASK, json=body))
            await asyncio.sleep(0.3)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await asyncio.sleep(0.3)
            go_on.touch()
            return await second

    answer = asyncio.run(go()).json()
    assert (answer["item"], answer["source"]) == ("held Rope shared", "joined")


@pytest.mark.parametrize(
    ("content", "token", "status"),
    [
        (b"{}", "wrong", 401),
        (b"{", KEY, 422),
        (b"x" * 100_001, KEY, 413),
        (json.dumps({**BODY, "candidates": ["a", "A"]}).encode(), KEY, 422),
        (json.dumps({**BODY, "candidates": list(map(str, range(10_000)))}).encode(), KEY, 422),
    ],
)
def test_refusals_reach_the_client_as_json(
    client: httpx.Client, content: bytes, token: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    response = client.post(ASK, content=content, headers=headers)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"type", "message", "field"}


def test_a_chunked_body_is_held_to_the_limit_too(client: httpx.Client) -> None:
    response = client.post(ASK, content=(b"x" * 10_000 for _ in range(20)))
    assert response.status_code == 413


def test_page_probes_figures_and_schema_are_served(client: httpx.Client) -> None:
    assert "MSR-Rec" in client.get("/").text
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    assert "msrrec_requests_total" in client.get("/metrics").text
    assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 2048
    assert ASK in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 200


def test_concurrent_requests_get_their_own_answers_and_the_rest_a_503(
    url: str, crash_mark: Path
) -> None:
    go_on = crash_mark.with_name("go on")
    go_on.unlink(missing_ok=True)
    bodies = [{**BODY, "candidates": ["Lens", f"held Rope {n}", "Kettle"]} for n in range(120)]
    # the first refusal lets those at work go on, so no place was given twice before it
    responses = asyncio.run(ask_many(url, bodies, lambda status: status == 503 and go_on.touch()))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}  # 8 at work, 70 waiting
    assert statuses.count(200) >= 78
    for n, response in enumerate(responses):
        if response.status_code == 200:
            assert response.json()["item"] == f"held Rope {n}"
        else:
            assert int(response.headers["retry-after"]) >= 1


def test_an_engine_that_dies_at_work_is_replaced_and_nobody_notices(
    url: str, crash_mark: Path
) -> None:
    titles = [f"slow {'poison' if n == 7 else 'Rope'} {n}" for n in range(60)]
    bodies = [{**BODY, "candidates": ["Lens", title, "Kettle"]} for title in titles]
    responses = asyncio.run(ask_many(url, bodies))
    assert crash_mark.exists()
    assert [response.status_code for response in responses] == [200] * 60
    assert [response.json()["item"] for response in responses] == titles


def test_a_killed_replica_is_replaced_and_nobody_notices(url: str, crash_mark: Path) -> None:
    async def go() -> list[httpx.Response]:
        bodies = [
            {**BODY, "candidates": ["Lens", f"slow Rope of the killed {n}", "Kettle"]}
            for n in range(60)
        ]
        asking = asyncio.create_task(ask_many(url, bodies))
        while not busy.exists():
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        return await asking

    latest = max(crash_mark.parent.glob("*.pid"), key=lambda path: path.stat().st_mtime)
    pid = int(latest.stem)
    busy = latest.with_suffix(".busy")
    busy.unlink(missing_ok=True)
    responses = asyncio.run(go())
    assert [response.status_code for response in responses] == [200] * 60


def test_a_killed_fusion_replica_is_replaced_and_nobody_notices(url: str, crash_mark: Path) -> None:
    import ray

    async def go() -> list[httpx.Response]:
        bodies = [
            {**BODY, "candidates": ["Lens", f"slow Rope of fusion {n}", "Kettle"]}
            for n in range(20)
        ]
        asking = asyncio.create_task(ask_many(url, bodies))
        while not any(crash_mark.parent.glob("*.busy")):
            await asyncio.sleep(0.01)
        ray.kill(ray.get_actor(name, namespace="serve"))
        return await asking

    for busy in crash_mark.parent.glob("*.busy"):
        busy.unlink()
    actors = ray.util.list_named_actors(all_namespaces=True)
    name = next(one["name"] for one in actors if "#Fusion#" in one["name"])
    responses = asyncio.run(go())
    assert [response.status_code for response in responses] == [200] * 20


def test_rays_proxy_obeys_no_header_of_a_client_and_reflects_no_strange_id(
    client: httpx.Client,
) -> None:
    body = {**BODY, "candidates": ["Lens", "slow Rope", "Kettle"]}
    headers = {"X-Request-Timeout-Seconds": "0.001", "X-Request-ID": "<b>1"}
    response = client.post(ASK, json=body, headers=headers)
    assert response.status_code == 200
    assert "<b>" not in response.headers["x-request-id"]
    named = client.get("/healthz", headers={"X-Request-ID": "order-7"})
    assert named.headers["x-request-id"] == "order-7"


def test_the_page_asks_for_a_token_and_then_shows_both_chains(url: str, page: "Page") -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    page.fill("#history", "Trail Camera")
    page.fill("#candidates", "Lens\n<b>Rope</b>\nKettle")
    page.click("#send")
    page.wait_for_selector("#problem:not(:empty)")
    assert page.evaluate("document.activeElement.id") == "token"
    page.fill("#token", KEY)
    page.click("#send")
    page.wait_for_selector("li.chosen")
    assert page.inner_text("li.chosen .title") == page.inner_text("#item") == "<b>Rope</b>"
    scores = [float(text) for text in page.locator("li .score").all_inner_texts()]
    assert len(scores) == 3
    assert sum(scores) == pytest.approx(1, abs=0.002)
    why = page.inner_text("#why")
    assert "lower perplexity wins: the user side (user 1.649, item 2.718)" in why
    chains = page.locator(".chain").all_inner_texts()
    assert chains == ["Step 1. It is <b>Rope</b>."] * 2
    assert page.locator(".side.won h2").inner_text() == "User side"
    assert problems == []


def test_the_pages_example_fills_the_form_and_a_refusal_names_its_field(
    url: str, page: "Page"
) -> None:
    page.goto(url)
    page.evaluate("key => sessionStorage.setItem('token', key)", KEY)
    page.reload()
    page.click("#example")
    assert page.input_value("#history") == EXAMPLE["history"][0]
    assert page.input_value("#candidates").splitlines() == EXAMPLE["candidates"]
    page.fill("#candidates", "Lens")
    page.click("#send")
    page.wait_for_selector("#problem:not(:empty)")
    assert "found 1; expected at least two titles, or none for the whole" in page.inner_text(
        "#problem"
    )
    assert page.evaluate("document.activeElement.id") == "candidates"


def test_the_page_searches_the_catalogue_and_gives_the_request_as_a_command(
    url: str, page: "Page"
) -> None:
    page.goto(url)
    page.evaluate("key => sessionStorage.setItem('token', key)", KEY)
    page.reload()
    page.wait_for_selector("#served:not([hidden])")
    page.fill("#history", "It's a tent")
    page.click("#send")
    page.wait_for_selector("li.chosen")
    assert "4 proposed by the catalogue" in page.inner_text("#facts")
    assert page.locator("li .title").count() == 4
    page.click("#command summary")
    command = page.inner_text("#curl").replace("curl -N", "curl -sN")
    env = {**os.environ, "MSRREC_API_KEY": KEY}
    told = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert dict(events_of(iter(told.stdout.splitlines())))["result"]["item"] == page.inner_text(
        "#item"
    )


def test_versions_come_and_go_under_load_and_no_request_is_lost(
    url: str,
    admin: httpx.Client,
    model_folder: Path,
    msrrec: Commands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def order(*options: str) -> dict[str, Any]:
        return msrrec("rollout", "--url", url, *options).summary

    def start(name: str, share: str) -> None:
        folder = shutil.copytree(model_folder, model_folder.with_name(name))
        order("--model", str(folder), "--share", share, "serve.share_engine=true")

    def bought() -> int:
        """Purchases of a user, one more than before."""
        path = f"{url}/v1/users/late/purchases"
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"items": [{"id": "mug"}]}
        return int(httpx.post(path, json=body, headers=headers, timeout=900).json()["history"])

    monkeypatch.setenv("MSRREC_ADMIN_KEY", ADMIN_KEY)
    assert bought() == 1
    with serving.Load(url, KEY) as load:
        first = load.gather(1).popitem()[0]
        start("second", "0.5")
        found = load.gather(50)
        assert set(found) == {first, "second"}
        assert abs(found["second"] - found.total() / 2) < 4 * math.sqrt(found.total() / 4)
        shown = order()
        assert shown["next"]["requests"] >= found["second"]
        assert shown["next"]["errors"] == 0
        assert 0 < shown["next"]["p50_s"] < 60
        assert bought() == 2
        order("--promote")
        assert set(load.gather(8)) == {"second"}
        assert bought() == 3  # what was told before it began counts, and what both were told once
        start("third", "1")
        assert set(load.gather(8)) == {"third"}
        state = admin.delete("/v1/rollout").json()
        assert set(load.gather(8)) == {"second"}
    assert {status for _, status, _ in load.answers} == {200}
    assert {name for _, _, name in load.answers} == {first, "second", "third"}
    assert (state["live"]["model"].rpartition("/")[2], state["next"]) == ("second", None)
