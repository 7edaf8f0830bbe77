"""Changes of items and purchases that several replicas are told of, and clients that leave."""

import asyncio
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from msrrec import storage
from msrrec.config import RecommendConfig
from msrrec.errors import DataError
from msrrec.retrieval.folder import load_index, save_index
from msrrec.schema import Item
from serve.catalogue import LiveCatalogue
from serve.changes import ChangeLog, apply
from serve.polling import Poll
from serve.purchases import PurchaseLog, ToldPurchases
from serve.routing import KEPT
from serve.shop import Shop
from serve.stored import StoredOffers
from tests.support.offers import make_offer as offer
from tests.support.offers import write_offers
from tests.support.retrieval import BOUGHT, build_shop_index, write_shop_dataset
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


def test_of_a_long_title_as_much_is_kept_as_prompts_show(index: str) -> None:
    catalogue = open_catalogue(index)
    body = {"title": "A <b>title</b> " * 10_000}
    assert World(shop=Shop(10, catalogue)).call("PUT", "/v1/items/a", json=body).status_code == 200
    (file,) = Path(catalogue.changes).iterdir()
    assert file.stat().st_size < 1000


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


def test_storage_that_does_not_answer_holds_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve.polling.FIRST_LOOK_S", 0.05)
    answers = asyncio.Event()
    looked = []

    async def look() -> None:
        await answers.wait()
        looked.append(1)

    async def go() -> None:
        poll = Poll(look, 60.0, "something")
        await asyncio.wait_for(asyncio.gather(*(poll.follow() for _ in range(20))), 5)
        await asyncio.wait_for(poll.follow(), 0.04)  # known not to answer
        assert not looked
        answers.set()
        await asyncio.sleep(0.01)
        assert looked == [1]

    asyncio.run(go())
    assert [one.message for one in caplog.records] == [
        "something: storage does not answer; what it holds comes late"
    ]


def write_later_index(index: str, folder: Path, written_ns: int) -> str:
    """Another index, of three users, that was written at a time."""
    some = dict(list(BOUGHT.items())[:3])
    later = build_shop_index(write_shop_dataset(folder / "data", bought=some), "purchases=all")
    assert later.version != load_index(index).version
    save_index(later, str(folder / "index"))
    os.utime(folder / "index" / storage.INDEX, ns=(written_ns, written_ns))
    return str(folder / "index")


def test_the_next_version_knows_what_the_live_one_was_told_since_its_own_index_was_written(
    index: str, tmp_path: Path
) -> None:
    live, settings = open_catalogue(index), RecommendConfig()
    offered = {}

    async def go() -> str:
        await live.put(GAS)
        await live.delete("lamp")
        written_ns = time.time_ns()
        await live.put(Item("pan", "Frying pan"))
        await live.delete("mug")
        other = write_later_index(index, tmp_path / "later", written_ns)
        upcoming = LiveCatalogue(other, settings, live.changes)
        offered["at first"] = offers_of(upcoming)
        await live.put(Item("pot", "Pot"))
        await upcoming.catch_up()
        offered["then"] = offers_of(upcoming)
        return other

    other = asyncio.run(go())
    # Gas and lamp were changed before: what was right then is what the index was built from.
    assert offered["at first"] == {"lamp", "table", "bulb", "tent", "stove", "pan"}
    assert offered["then"] == offered["at first"] | {"pot"}
    # It is live now, and was started anew.
    assert offers_of(LiveCatalogue(other, settings)) == offered["then"]


def offers_of(catalogue: LiveCatalogue) -> set[str]:
    """Ids of the items that may be recommended."""
    known = catalogue.index.catalogue
    return {item_id for item_id, code in known.codes.items() if known.is_offered[code]}


def test_a_change_that_the_live_version_has_kept_is_read_and_not_kept_twice(
    index: str, tmp_path: Path
) -> None:
    other = write_later_index(index, tmp_path / "later", 1)
    live = open_catalogue(index)
    upcoming = LiveCatalogue(other, RecommendConfig(), live.changes)
    told, world = World(shop=Shop(10, live)), World(shop=Shop(10, upcoming))
    kept = {KEPT.decode(): "1"}
    body = {"title": "Camping gas"}
    for one, headers in ((told, {}), (world, kept)):
        assert one.call("PUT", "/v1/items/gas", json=body, headers=headers).status_code == 200
        assert one.call("DELETE", "/v1/items/mug", headers=headers).status_code == 200
    assert offers_of(upcoming) == offers_of(live)
    assert len(list(Path(upcoming.changes).iterdir())) == 2


def test_many_changes_are_packed_and_mean_the_same_to_whoever_starts_later(index: str) -> None:
    version = load_index(index).version
    told, running = (ChangeLog(index, version, max_files=4) for _ in range(2))
    followed = load_index(index)
    for n in range(20):
        told.read_new()
        told.put(Item(f"n{n % 3}", f"Text {n}"))
        if n % 5 == 0:  # others look now and then
            followed = apply(followed, running.read_new())
    told.read_new()
    told.delete("n0")
    assert len(list(Path(told.folder).iterdir())) <= 5
    followed = apply(followed, running.read_new())
    later = ChangeLog(index, version)
    started = apply(load_index(index), later.read_new())
    assert later.latest == running.latest
    for one in (followed, started):
        known = one.catalogue
        titles = [known.items[known.codes[f"n{n}"]].title for n in range(3)]
        assert titles == ["Text 18", "Text 19", "Text 17"]
        assert [bool(known.is_offered[known.codes[f"n{n}"]]) for n in range(3)] == [
            False,
            True,
            True,
        ]


def test_what_is_packed_while_it_is_read_is_read_again(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = load_index(index).version
    told, reading = (ChangeLog(index, version, max_files=2) for _ in range(2))
    told.put(Item("a", "One"))
    told.read_new()
    told.put(Item("b", "Two"))
    told.read_new()
    listed, names = storage.list_files, []

    def list_and_wait(folder: str) -> list[str]:
        nonlocal names
        before, names = names, listed(folder)
        if not before:
            with monkeypatch.context() as patch:
                patch.setattr(storage, "list_files", listed)
                told.put(Item("c", "Three"))  # which packs all of them
        return sorted({*before, *names})  # its deletions go on

    monkeypatch.setattr(storage, "list_files", list_and_wait)
    assert [one.item_id for one in reading.read_new()] == ["a", "b", "c"]
    assert len(list(Path(told.folder).iterdir())) == 1


def test_of_two_changes_of_an_item_the_later_one_counts_in_whatever_order_they_are_read(
    index: str,
) -> None:
    version = load_index(index).version
    fast, slow, reader = (ChangeLog(index, version) for _ in range(3))
    slow.put(Item("gas", "Earlier"))
    (file,) = Path(slow.folder).iterdir()
    earlier = file.read_bytes()
    file.unlink()  # it is still on its way
    fast.put(Item("gas", "Later"))
    assert [one.item and one.item.title for one in reader.read_new()] == ["Later"]
    file.write_bytes(earlier)
    assert reader.read_new() == []


def test_a_folder_that_can_t_be_packed_takes_changes_all_the_same(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ChangeLog(index, load_index(index).version, max_files=1)
    told.put(Item("a", "One"))
    told.read_new()

    def refuse(path: str) -> None:
        raise DataError(f"{path}: the store does not answer")

    monkeypatch.setattr(storage, "read_object", refuse)
    told.put(Item("b", "Two"))
    assert len(list(Path(told.folder).iterdir())) == 2


def test_where_nothing_may_be_deleted_not_every_change_adds_a_copy_of_all(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise DataError(f"{path}: may not be deleted")

    monkeypatch.setattr(storage, "delete_file", refuse)
    told = ChangeLog(index, load_index(index).version, max_files=2)
    for n in range(12):
        told.put(Item(f"n{n}", "One"))
        told.read_new()
    assert len(list(Path(told.folder).iterdir())) <= 12 + 3
    built = load_index(index)
    started = apply(built, ChangeLog(index, built.version).read_new())
    assert len(started.catalogue.items) == len(built.catalogue.items) + 12


def test_the_next_version_takes_over_what_is_packed(index: str, tmp_path: Path) -> None:
    live = ChangeLog(index, load_index(index).version, max_files=3)
    live.put(Item("pan", "Frying pan"))
    live.put(Item("pot", "Pot"))
    written_ns = time.time_ns()
    live.put(Item("pan", "Iron pan"))
    live.read_new()
    live.put(Item("cup", "Cup"))  # which packs them
    assert len(list(Path(live.folder).iterdir())) == 1
    other = write_later_index(index, tmp_path / "later", written_ns)
    version = load_index(other).version
    upcoming = ChangeLog(other, version, live.folder, max_files=2)
    assert [one.item_id for one in upcoming.read_new()] == ["pan", "cup"]
    upcoming.read_new()
    upcoming.delete("cup")  # it packs its own
    assert len(list(Path(upcoming.folder).iterdir())) == 1
    started = ChangeLog(other, version, live.folder).read_new()
    assert [(one.item_id, one.item is None) for one in started] == [
        ("pan", False),
        ("cup", False),
        ("cup", True),
    ]
