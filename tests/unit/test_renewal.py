"""Recommendations made anew after purchases, more of which may come than engines can follow."""

import asyncio
from pathlib import Path

import pytest

from msrrec.config import RecommendConfig
from msrrec.retrieval.folder import save_index
from serve import renewal
from serve.renewal import Renewals
from serve.shop import ShopArgs, open_shop
from tests.support.clock import run_at_once
from tests.support.offers import make_offer as offer
from tests.support.offers import write_offers
from tests.support.retrieval import build_shop_index, write_shop_dataset
from tests.support.service import World


def test_two_are_at_work_and_a_user_is_in_line_once() -> None:
    asked: list[str] = []
    at_once = [0]

    async def renew(user_id: str) -> None:
        asked.append(user_id)
        at_once.append(at_once[-1] + 1)
        await asyncio.sleep(1)
        at_once.append(at_once[-1] - 1)

    async def go() -> None:
        renewals = Renewals(renew)
        for user_id in ("ann", "bob", "cem", "bob", "dan", "cem"):
            renewals.add(user_id)
        while renewals.is_busy:
            await asyncio.sleep(0.1)

    run_at_once(go())
    assert (asked, max(at_once)) == (["ann", "bob", "cem", "dan"], 2)


def test_who_has_waited_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "MAX_WAITING", 3)
    asked: list[str] = []

    async def renew(user_id: str) -> None:
        asked.append(user_id)

    async def go() -> None:
        renewals = Renewals(renew)
        for user_id in "abcde":
            renewals.add(user_id)
        while renewals.is_busy:
            await asyncio.sleep(0.1)

    run_at_once(go())
    assert asked == ["c", "d", "e"]


def test_one_that_fails_does_not_end_the_others() -> None:
    asked: list[str] = []

    async def renew(user_id: str) -> None:
        asked.append(user_id)
        raise RuntimeError("no")

    async def go() -> None:
        renewals = Renewals(renew)
        for user_id in "abc":
            renewals.add(user_id)
        while renewals.is_busy:
            await asyncio.sleep(0.1)

    run_at_once(go())
    assert asked == ["a", "b", "c"]


def test_an_engine_that_hangs_holds_a_renewal_as_long_as_a_request(tmp_path: Path) -> None:
    built = build_shop_index(write_shop_dataset(tmp_path / "data"), "purchases=all")
    save_index(built, str(tmp_path / "index"))
    stored = write_offers(tmp_path / "offers", [offer("ann", 1, "stove", history=("tent",))])
    args = ShopArgs(str(tmp_path / "index"), stored, RecommendConfig(num_candidates=2))
    world = World(shop=open_shop(args, 10), deadline_s=0.5)

    async def hang() -> None:
        await asyncio.sleep(60)

    async def go() -> None:
        world.user.before = hang
        async with world.client() as client:
            await client.post("/v1/users/ann/purchases", json={"items": ["mug"]})
        while world.api.is_renewing:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(go(), 30))
    assert world.user.cancelled == 1
