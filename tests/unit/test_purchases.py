"""Purchases are known to whoever starts later, and counted once by whoever is told of them."""

import asyncio
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from msrrec import storage
from msrrec.errors import DataError
from serve.purchases import Purchase, PurchaseLog, ToldPurchases
from serve.routing import KEPT
from serve.shop import Shop
from serve.stored import StoredOffers
from tests.support.offers import make_offer as offer
from tests.support.offers import write_offers
from tests.support.service import World, error_of

STOVE = {"items": [{"id": "stove", "title": "Camping stove"}]}
PATH = "/v1/users/ann/purchases"


def write(folder: Path, run: str = "first", history: tuple[str, ...] = ("tent",)) -> str:
    """Recommendations of a run to one user."""
    offers = [offer("ann", 1, "stove", history=history), offer("ann", 2, "mug")]
    path = write_offers(folder, offers)
    storage.write_json(f"{path}/{storage.RECORD}", {"run": run})
    return path


class Replica:
    """A service that holds recommendations, whose engines fail, so that nothing is made anew."""

    def __init__(self, recommendations: str, purchases: Path, copies: Path | None = None) -> None:
        self.stored = StoredOffers(recommendations)
        told = ToldPurchases(self.stored, str(purchases), copies and str(copies))
        self.world = World(shop=Shop(10, stored=self.stored, told=told))
        self.world.user.deaths = self.world.item.deaths = 100

    def tell(self, body: Any = STOVE, **headers: str) -> httpx.Response:
        return self.world.call("POST", PATH, json=body, headers=headers)

    @property
    def history(self) -> tuple[str, ...] | None:
        return self.stored.history("ann")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "purchases"


def test_a_replica_that_starts_later_knows_what_was_told_before(
    tmp_path: Path, folder: Path
) -> None:
    path = write(tmp_path / "offers")
    first = Replica(path, folder)
    assert first.tell().json() == {"user_id": "ann", "history": 2}
    assert first.tell({"items": ["A title"]}).json()["history"] == 3
    later = Replica(path, folder)
    assert later.history == first.history == ("tent", "Camping stove", "A title")
    assert first.tell({"items": ["A title"]}).json()["history"] == 4  # bought again
    assert Replica(path, folder).history == first.history


def test_the_next_version_is_told_and_does_not_count_twice(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "offers")
    live, upcoming = Replica(path, folder), Replica(path, folder)
    assert live.tell().status_code == 202
    told = upcoming.tell(**{KEPT.decode(): "1"})
    assert told.json() == {"user_id": "ann", "history": 2}
    assert Replica(path, folder).history == live.history == upcoming.history


def test_the_next_version_does_not_wait_for_its_next_look(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "offers")
    live, upcoming = Replica(path, folder), Replica(path, folder)

    async def tell_twice() -> list[int]:
        counts = []
        async with live.world.client() as one, upcoming.world.client() as other:
            for _ in range(2):
                await one.post(PATH, json=STOVE)
                told = await other.post(PATH, json=STOVE, headers={KEPT.decode(): "1"})
                counts.append(told.json()["history"])
        return counts

    assert asyncio.run(tell_twice()) == [2, 3]


def test_recommendations_of_a_later_run_may_have_a_purchase_already(
    tmp_path: Path, folder: Path
) -> None:
    Replica(write(tmp_path / "old"), folder).tell({"items": ["stove", "lamp"]})
    new = Replica(write(tmp_path / "new", "second", ("tent", "stove")), folder)
    assert new.history == ("tent", "stove", "lamp")
    unaware = Replica(write(tmp_path / "other", "third"), folder)
    assert unaware.history == ("tent", "stove", "lamp")


def test_a_purchase_that_can_t_be_kept_is_refused(tmp_path: Path, folder: Path) -> None:
    replica = Replica(write(tmp_path / "offers"), folder)
    folder.write_text("no folder")
    refused = replica.tell()
    assert (refused.status_code, error_of(refused)["type"]) == (503, "not_kept")
    assert "retry-after" in refused.headers
    assert replica.history == ("tent",)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (PATH, {"items": ["Stove", " \u200b"]}, "items[1]"),
        ("/v1/users//purchases", STOVE, "user_id"),
        (f"/v1/users/{'a' * 201}/purchases", STOVE, "user_id"),
    ],
)
def test_what_no_recommendation_could_be_made_from_is_no_purchase(
    tmp_path: Path, folder: Path, path: str, body: dict[str, Any], field: str
) -> None:
    replica = Replica(write(tmp_path / "offers"), folder)
    refused = replica.world.call("POST", path, json=body)
    assert (refused.status_code, error_of(refused)["field"]) == (422, field)
    assert replica.history == ("tent",)


def test_of_a_long_title_as_much_is_kept_as_prompts_show(tmp_path: Path, folder: Path) -> None:
    replica = Replica(write(tmp_path / "offers"), folder)
    replica.tell({"items": ["A <b>title</b> " * 10_000]})
    assert replica.history is not None
    assert len(replica.history[1]) <= 160


def purchase(time_ns: int) -> Purchase:
    return Purchase(time_ns, "ann", (f"i{time_ns}",), "run")


def test_purchases_of_all_writers_are_read_once_in_the_order_of_their_times(folder: Path) -> None:
    one, other, reader = (PurchaseLog(str(folder)) for _ in range(3))
    for time_ns, log in ((2, one), (1, other), (3, one)):
        log.add(purchase(time_ns))
    assert reader.read_new() == [purchase(1), purchase(2), purchase(3)]
    assert reader.read_new() == []
    one.add(purchase(4))
    assert reader.read_new() == [purchase(4)]


def test_a_line_is_read_once_it_is_whole(folder: Path) -> None:
    log = PurchaseLog(str(folder))
    log.add(purchase(1))
    (file,) = folder.iterdir()
    line = file.read_bytes()
    file.write_bytes(line + line[:10])
    assert log.read_new() == [purchase(1)]
    file.write_bytes(line + json.dumps(json.loads(line) | {"time_ns": 9}).encode() + b"\n")
    assert [one.time_ns for one in log.read_new()] == [9]
    file.write_bytes(line)  # deleted for its age, and begun anew by its writer
    assert log.read_new() == [purchase(1)]


@pytest.mark.parametrize("limit", [{"max_files": 3}, {"max_bytes": 200}])
def test_the_oldest_are_deleted_beyond_the_limits(
    folder: Path, limit: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names of files begin with milliseconds, in which this test would begin several.
    monkeypatch.setattr("msrrec.journal.time.time", itertools.count(1_700_000_000).__next__)
    log = PurchaseLog(str(folder), per_file=2, **limit)
    for time_ns in range(20):
        log.add(purchase(time_ns))
    kept = [one.time_ns for one in PurchaseLog(str(folder)).read_new()]
    assert kept == list(range(kept[0], 20))
    assert 12 <= kept[0] <= 16


def test_a_service_that_is_started_with_the_promoted_recommendations_knows_all_purchases(
    tmp_path: Path, folder: Path
) -> None:
    old, new = (write(tmp_path / run, run) for run in ("old", "new"))
    beside = tmp_path / "new.purchases"
    told = Replica(old, folder)
    told.tell()
    promoted = [Replica(new, folder, beside) for _ in range(2)]
    promoted[0].tell({"items": ["A title"]})
    assert Replica(new, beside).history == ("tent", "Camping stove", "A title")
    assert Replica(old, folder).history == ("tent", "Camping stove", "A title")


@pytest.mark.parametrize("place", ["a file", "a file/purchases"])
def test_purchases_are_kept_where_they_can_t_be_copied(
    tmp_path: Path, folder: Path, place: str
) -> None:
    (tmp_path / "a file").write_text("no folder")
    replica = Replica(write(tmp_path / "offers"), folder, tmp_path / place)
    assert replica.tell().status_code == 202
    assert Replica(write(tmp_path / "offers"), folder).history == replica.history


def test_a_folder_that_was_deleted_is_made_anew_at_the_next_purchase(
    tmp_path: Path, folder: Path
) -> None:
    replica = Replica(write(tmp_path / "offers"), folder)
    replica.tell()
    shutil.rmtree(folder)
    assert replica.tell().json()["history"] == 3
    assert Replica(write(tmp_path / "offers"), folder).history == ("tent", "Camping stove")


def test_what_was_read_beside_a_file_that_could_not_be_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for time_ns in (1, 2):
        PurchaseLog(str(folder)).add(purchase(time_ns))
    reader, read = PurchaseLog(str(folder)), storage.read_bytes
    refused = sorted(folder.iterdir())[1].name

    def refuse(path: str) -> bytes:
        if path.endswith(refused):
            raise DataError("the store does not answer")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_bytes", refuse)
        with pytest.raises(DataError):
            reader.read_new()
    assert reader.read_new() == [purchase(1), purchase(2)]


def test_a_file_that_is_deleted_while_it_is_read_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PurchaseLog(str(folder)).add(purchase(1))
    listed = [*storage.walk(str(folder)), storage.Entry("0-gone.jsonl", 9, 0)]
    monkeypatch.setattr(storage, "walk", lambda path: listed)
    assert PurchaseLog(str(folder)).read_new() == [purchase(1)]
