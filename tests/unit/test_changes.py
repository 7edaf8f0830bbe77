"""Changes of items and purchases that several replicas are told of, and clients that leave."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import RecommendConfig
from msrrec.retrieval.folder import save_index
from msrrec.schema import Item
from serve.catalogue import LiveCatalogue
from serve.changes import ChangeLog
from serve.polling import Poll
from serve.purchases import PurchaseLog, ToldPurchases
from serve.shop import Shop
from serve.stored import StoredOffers
from tests.support.offers import make_offer as offer
from tests.support.offers import write_offers
from tests.support.retrieval import build_shop_index, write_shop_dataset
from tests.support.service import World, error_of

GAS = Item("gas", "Camping gas")


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index of six items."""
    built = build_shop_index(write_shop_dataset(tmp_path / "data"), "purchases=all")
    save_index(built, str(tmp_path / "index"))
    return str(tmp_path / "index")


def open_catalogue(index: str) -> LiveCatalogue:
    return LiveCatalogue(index, RecommendConfig(num_candidates=3))


async def leave_while_it_is_read(
    work: Coroutine[Any, Any, None], log: type[ChangeLog] | type[PurchaseLog]
) -> None:
    """A client asks for some work, and leaves while a thread reads what is new."""
    reading, loop, read = asyncio.Event(), asyncio.get_running_loop(), log.read_new

    def slow(self: Any) -> Any:
        found = read(self)
        loop.call_soon_threadsafe(reading.set)
        time.sleep(0.05)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "read_new", slow)
        asked = asyncio.create_task(work)
        await reading.wait()
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()


def test_what_was_read_for_a_client_who_left_is_known(index: str) -> None:
    async def go() -> LiveCatalogue:
        told, asked = open_catalogue(index), open_catalogue(index)
        await told.put(GAS)
        await leave_while_it_is_read(asked.delete("mug"), ChangeLog)
        await asked.catch_up()
        return asked

    assert "gas" in asyncio.run(go()).index.catalogue.codes


def test_a_purchase_that_was_read_for_a_client_who_left_is_known(tmp_path: Path) -> None:
    folder = write_offers(tmp_path / "offers", [offer("ann", 1, "stove", history=("tent",))])
    stored = StoredOffers(folder)

    async def go() -> None:
        told = ToldPurchases(stored, str(tmp_path / "purchases"))
        await leave_while_it_is_read(told.add("ann", ["stove"]), PurchaseLog)
        await told.catch_up()

    asyncio.run(go())
    assert stored.history("ann") == ("tent", "stove")


def test_an_item_can_be_deleted_at_a_replica_right_after_another_one_was_told_of_it(
    index: str,
) -> None:
    async def go() -> LiveCatalogue:
        one, other = open_catalogue(index), open_catalogue(index)
        await other.follow()  # and it looks again half a second later
        await one.put(GAS)
        await other.delete("gas")
        return other

    catalogue = asyncio.run(go()).index.catalogue
    assert not catalogue.is_offered[catalogue.codes["gas"]]


def test_a_change_counts_after_those_before_it_although_a_clock_is_fast(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        fast, slow = open_catalogue(index), open_catalogue(index)
        clock = iter([2_000_000_000_000, 1_000_000_000_000])  # of one node, then of the other
        monkeypatch.setattr("serve.changes.time.time_ns", clock.__next__)
        await fast.put(GAS)
        await slow.delete("gas")

    asyncio.run(go())
    restarted = open_catalogue(index).index.catalogue
    assert not restarted.is_offered[restarted.codes["gas"]]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_change_that_can_t_be_kept_is_refused(index: str, method: str) -> None:
    world = World(shop=Shop(10, open_catalogue(index)))
    Path(f"{index}.changes").write_text("no folder")
    body = {"title": "Mug"} if method == "PUT" else None
    refused = world.call(method, "/v1/items/mug", json=body)
    assert (refused.status_code, error_of(refused)["type"]) == (503, "not_kept")
    assert "retry-after" in refused.headers


def test_those_who_come_first_wait_for_one_look_together() -> None:
    looks = []

    async def look() -> None:
        looks.append(1)
        await asyncio.sleep(0.01)

    async def go() -> None:
        poll = Poll(look, 60.0, "something")
        await asyncio.gather(*(poll.follow() for _ in range(20)))

    asyncio.run(go())
    assert len(looks) == 1
