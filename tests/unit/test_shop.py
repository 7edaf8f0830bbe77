"""The service's catalogue, and what it answers ahead of time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from msrrec.config import RecommendConfig
from msrrec.data.dataset import Dataset
from msrrec.recommendations.rows import Offer
from msrrec.retrieval.folder import load_index, save_index
from serve.catalogue import LiveCatalogue
from serve.http_models import RecommendRequest
from serve.shop import Shop, ShopArgs, check_shop, open_shop
from serve.stored import ChangedUser, StoredOffers
from tests.support.offers import make_offer as offer
from tests.support.offers import write_offers
from tests.support.retrieval import SHOP, build_shop_index, write_shop_dataset
from tests.support.service import ASK, World, error_of, events_of


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index of six items."""
    dataset: Dataset = write_shop_dataset(tmp_path / "data")
    built = build_shop_index(dataset, "purchases=all", "weights.words=3")
    save_index(built, str(tmp_path / "index"))
    return str(tmp_path / "index")


@pytest.fixture
def recommendations(tmp_path: Path) -> str:
    """Offers to two users, in two partitions."""
    return write_offers(
        tmp_path / "recommendations",
        [offer("ann", 1, "stove"), offer("ann", 2, "mug"), offer("ann", 3, "lamp")],
        [offer("bob/1", 1, "lamp", history=("table",)), offer("bob/1", 2, "bulb")],
    )


def shop_world(index: str | None = None, recommendations: str | None = None) -> World:
    settings = RecommendConfig(num_candidates=3)
    purchases = recommendations and f"{recommendations}.purchases"
    args = ShopArgs(index, recommendations, settings, purchases)
    world = World(shop=open_shop(args, max_candidates=10))
    world.user.choice = world.item.choice = 1
    return world


def calls(world: World, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    """Several requests on one event loop, a little apart, so that work behind them gets done."""

    async def go() -> list[httpx.Response]:
        found = []
        async with world.client() as client:
            for method, path, body in requests:
                found.append(await client.request(method, path, json=body))
                for _ in range(100):
                    await asyncio.sleep(0.002)
                    if not world.api.is_renewing:
                        break
        return found

    return asyncio.run(go())


def ranked(response: httpx.Response) -> list[str]:
    return [row["id"] for row in response.json()["ranking"]]


def test_without_candidates_the_catalogue_is_searched(index: str) -> None:
    world = shop_world(index)
    answer = world.call("POST", ASK, json={"history": ["Two-person tent"], "top_k": 3}).json()
    assert answer["retrieved"] == 3
    assert answer["source"] == "live"
    assert answer["index"] is answer["ranking"][0]["index"] is None
    assert answer["id"] in SHOP
    assert SHOP[answer["id"]] == answer["item"] == answer["ranking"][0]["item"]
    assert len({row["id"] for row in answer["ranking"]} - {"tent"}) == 3
    assert answer["sides"]["user"]["index"] is None


def test_the_catalogue_is_searched_and_ranked_without_reasoning(index: str) -> None:
    world = shop_world(index)
    ask = {"history": ["Two-person tent"], "top_k": 3, "mode": "fast"}
    answer = world.call("POST", ASK, json=ask).json()
    # Each candidate is twice as likely as the one before: the third proposed is best.
    assert [row["score"] for row in answer["ranking"]] == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert answer["item"] == SHOP[answer["id"]] == answer["ranking"][0]["item"]
    assert answer["retrieved"] == 3


def test_ids_and_titles_mean_the_same(index: str) -> None:
    world = shop_world(index)
    bodies: list[dict[str, Any]] = [
        {"history": [{"id": "tent"}]},
        {"history": ["two-person TENT"]},
        {"history": [{"id": "tent", "title": "whatever"}]},
    ]
    answers = [world.call("POST", ASK, json=body | {"top_k": 3}).json() for body in bodies]
    assert answers[0]["ranking"] == answers[1]["ranking"] == answers[2]["ranking"]
    given = {"history": ["Hat"], "candidates": [{"id": "mug"}, {"id": "n", "title": "New"}]}
    answer = world.call("POST", ASK, json=given).json()
    assert (answer["item"], answer["id"], answer["index"]) == ("Tin mug", "mug", 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"history": [{"id": "nothing"}]}, "history[0]"),
        ({"history": [{}]}, "history[0]"),
        ({"history": ["a"], "user_id": "ann", "candidates": ["b", "c"]}, "history"),
        ({"candidates": ["b", "c"]}, "history"),
        ({"history": list(SHOP.values())}, "candidates"),
    ],
)
def test_what_names_nothing_is_refused_with_the_field(
    index: str, body: dict[str, Any], field: str
) -> None:
    response = shop_world(index).call("POST", ASK, json=body)
    assert response.status_code == 422
    assert error_of(response)["field"] == field


def test_a_service_without_catalogue_says_what_it_needs() -> None:
    world = World()
    response = world.call("POST", ASK, json={"history": ["a"]})
    assert error_of(response)["field"] == "candidates"
    assert "--index" in error_of(response)["message"]
    for method, path, body in (
        ("PUT", "/v1/items/x", {"title": "X"}),
        ("DELETE", "/v1/items/x", None),
        ("POST", "/v1/users/x/purchases", {"items": ["X"]}),
    ):
        assert world.call(method, path, json=body).status_code == 404


def test_a_new_item_is_recommended_at_once_and_a_removed_one_no_more(index: str) -> None:
    world = shop_world(index)
    ask = ("POST", ASK, {"history": ["Camping stove"], "top_k": 3})
    body = {"title": "Camping stove gas", "categories": ["Outdoor"], "brand": "Ace"}
    put, after, deleted, gone, again = calls(
        world,
        ("PUT", "/v1/items/gas%2F1", body),
        ask,
        ("DELETE", "/v1/items/gas%2F1", None),
        ask,
        ("DELETE", "/v1/items/gas%2F1", None),
    )
    assert put.status_code == deleted.status_code == 200
    assert put.json()["index"] != deleted.json()["index"]
    assert "gas/1" in ranked(after)
    assert "gas/1" not in ranked(gone)
    assert again.status_code == 404
    assert (
        error_of(calls(world, ("PUT", "/v1/items/y", {"title": "\u200b"}))[0])["field"] == "title"
    )


def test_changes_outlive_a_restart_and_reach_other_replicas(index: str) -> None:
    async def go() -> tuple[LiveCatalogue, LiveCatalogue]:
        settings = RecommendConfig(num_candidates=3)
        one, other = LiveCatalogue(index, settings), LiveCatalogue(index, settings)
        await other.follow()
        from msrrec.schema import Item

        await one.put(Item("gas", "Camping gas"))
        await one.delete("mug")
        for _ in range(200):
            await asyncio.sleep(0.02)
            if other.index.version == one.index.version:
                break
        return one, other

    one, other = asyncio.run(go())
    restarted = LiveCatalogue(index, RecommendConfig())
    assert one.index.version == other.index.version == restarted.index.version
    assert "gas" in restarted.index.catalogue.codes
    assert load_index(index).version != restarted.index.version  # the index itself is unchanged


def test_a_replica_that_was_never_asked_knows_of_earlier_changes_at_its_first_request(
    index: str,
) -> None:
    asked, idle, other = (shop_world(index) for _ in range(3))
    assert calls(asked, ("PUT", "/v1/items/first", {"title": "Gas"}))[0].status_code == 200
    answers = calls(
        idle,
        ("POST", ASK, {"history": [{"id": "first"}], "top_k": 3}),
        ("DELETE", "/v1/items/first", None),
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert calls(other, ("DELETE", "/v1/items/first", None))[0].status_code == 404


def test_a_known_user_is_answered_from_what_was_made_before(recommendations: str) -> None:
    world = shop_world(recommendations=recommendations)
    answer = world.call("POST", ASK, json={"user_id": "ann", "top_k": 2}).json()
    assert (answer["source"], answer["id"], answer["model"]["version"]) == ("stored", "stove", "m1")
    assert answer["reasoning"] == "It goes with the tent."
    assert [row["id"] for row in answer["ranking"]] == ["stove", "mug"]
    assert world.user.requests == []
    streamed = world.call("POST", ASK, json={"user_id": "bob/1", "stream": True})
    assert [name for name, _ in events_of(streamed)] == ["result"]
    unknown = world.call("POST", ASK, json={"user_id": "eve"})
    assert (unknown.status_code, error_of(unknown)["field"]) == (404, "user_id")


def test_a_purchase_leaves_the_offers_at_once_and_is_reasoned_about(
    index: str, recommendations: str
) -> None:
    world = shop_world(index, recommendations)
    ask = ("POST", ASK, {"user_id": "ann", "top_k": 3})
    before, told, after = calls(
        world, ask, ("POST", "/v1/users/ann/purchases", {"items": [{"id": "stove"}]}), ask
    )
    assert ranked(before) == ["stove", "mug", "lamp"]
    assert (told.status_code, told.json()) == (202, {"user_id": "ann", "history": 2})
    assert "stove" not in ranked(after)
    assert after.json()["source"] == "stored"
    # it was made anew by the model that serves
    assert after.json()["model"] == {"name": "tiny", "version": "v1"}
    prompt = "".join(map(chr, world.user.requests[0].prompt_ids))
    assert "Two-person tent" in prompt.split("Candidates")[0]
    metrics = world.call("GET", "/metrics").text  # nobody waited for what was made anew
    assert "msrrec_request_seconds_count" not in metrics
    assert 'msrrec_answers_total{source="renewed",version="v1"} 1.0' in metrics


@pytest.mark.parametrize("bought", [{"id": "stove", "title": "Camping stove"}, "CAMPING stove."])
def test_a_purchase_leaves_the_offers_of_a_service_without_a_catalogue_too(
    recommendations: str, bought: Any
) -> None:
    _, after = calls(
        shop_world(recommendations=recommendations),
        ("POST", "/v1/users/ann/purchases", {"items": [bought]}),
        ("POST", ASK, {"user_id": "ann", "top_k": 3}),
    )
    assert ranked(after) == ["mug", "lamp"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_change_without_an_id_is_refused_by_its_name(index: str, method: str) -> None:
    body = {"title": "Mug"} if method == "PUT" else None
    refused = shop_world(index).call(method, "/v1/items/", json=body)
    assert (refused.status_code, error_of(refused)["field"]) == (422, "item_id")


def test_what_is_deleted_is_offered_to_nobody_any_more(index: str, recommendations: str) -> None:
    world = shop_world(index, recommendations)
    ask = ("POST", ASK, {"user_id": "ann", "top_k": 3})
    _, after = calls(world, ("DELETE", "/v1/items/stove", None), ask)
    assert (after.json()["source"], ranked(after)) == ("stored", ["mug", "lamp"])


def test_a_replica_that_only_gives_what_was_made_before_learns_of_purchases(
    index: str, recommendations: str
) -> None:
    told, asked = (shop_world(index, recommendations) for _ in range(2))
    told.user.deaths = 100
    calls(told, ("POST", "/v1/users/ann/purchases", {"items": [{"id": "stove"}]}))
    (answer,) = calls(asked, ("POST", ASK, {"user_id": "ann", "top_k": 3}))
    assert ranked(answer) == ["mug", "lamp"]


def test_another_replica_knows_of_a_purchase_and_of_what_is_offered_since(
    index: str, recommendations: str
) -> None:
    one, other = (shop_world(index, recommendations) for _ in range(2))
    known: list[list[str]] = []

    async def share(user_id: str, changed: ChangedUser) -> None:
        await other.api.shop.take(user_id, changed)
        body = RecommendRequest.model_validate({"user_id": user_id})
        known.append(ids(await other.api.shop.find_offers(body)))

    one.api.share = share
    calls(one, ("POST", "/v1/users/ann/purchases", {"items": [{"id": "stove"}]}))
    purchase, renewed = known
    assert purchase == ["mug", "lamp"]
    assert renewed[0] != "stove"
    assert renewed != purchase
    (answer,) = calls(one, ("POST", ASK, {"user_id": "ann", "top_k": 3}))
    assert ranked(answer) == renewed[:3]


def test_while_the_engines_fail_a_purchase_only_leaves_the_offers(
    index: str, recommendations: str
) -> None:
    world = shop_world(index, recommendations)
    world.user.deaths = 100
    _, after = calls(
        world,
        ("POST", "/v1/users/ann/purchases", {"items": [{"id": "stove"}]}),
        ("POST", ASK, {"user_id": "ann", "top_k": 3}),
    )
    assert ranked(after) == ["mug", "lamp"]
    assert after.json()["model"] == {"name": None, "version": "m1"}


def test_a_user_who_bought_all_offers_is_answered_live(index: str, recommendations: str) -> None:
    stored = StoredOffers(recommendations)
    stored.add_purchases("ann", ["stove", "mug", "lamp"])
    assert stored.find("ann") == []
    shop = Shop(10, LiveCatalogue(index, RecommendConfig(num_candidates=2)), stored)
    world = World(shop=shop)
    world.user.choice = world.item.choice = 1
    answer = world.call("POST", ASK, json={"user_id": "ann"}).json()
    assert answer["source"] == "live"
    assert answer["id"] in {"table", "bulb"}


def test_offers_for_an_older_history_are_not_kept(recommendations: str) -> None:
    stored = StoredOffers(recommendations)
    history = stored.add_purchases("ann", ["mug"])
    stored.add_purchases("ann", ["lamp"])
    stored.replace("ann", history, [offer("ann", 1, "bulb")])
    assert ids(stored.find("ann")) == ["stove"]
    assert stored.history("ann") == ("tent", "mug", "lamp")
    assert len(stored) == 2


def test_only_the_latest_purchases_of_a_user_are_kept(recommendations: str) -> None:
    stored = StoredOffers(recommendations)
    history = stored.add_purchases("ann", [f"i{n}" for n in range(5_000)])
    assert (len(history), history[-1]) == (1_000, "i4999")


def ids(offers: Sequence[Offer] | None) -> list[str]:
    return [one.item_id for one in offers or ()]


def test_changes_of_the_catalogue_may_need_a_key_of_their_own(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msrrec.config import ServeConfig
    from serve.keys import Keys

    monkeypatch.setenv("MSRREC_API_KEY", "all")
    monkeypatch.setenv("MSRREC_ADMIN_KEY", "boss")
    keys = Keys.read(ServeConfig())
    assert keys.admin
    assert keys.admin != keys.everything
    monkeypatch.delenv("MSRREC_ADMIN_KEY")
    keys = Keys.read(ServeConfig())
    assert (keys.admin, len(keys.everything)) == ((), 1)


def test_folders_that_hold_something_else_are_refused_before_engines_start(tmp_path: Path) -> None:
    from msrrec.errors import DataError

    with pytest.raises(DataError):
        check_shop(str(tmp_path), None)
    with pytest.raises(DataError):
        check_shop(None, str(tmp_path))
