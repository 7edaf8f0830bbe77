"""Recommendations for all users of a dataset, on real Ray."""

import hashlib
import json
from pathlib import Path

import pytest

from msrrec import storage
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.models import EMBEDDED_DIR
from msrrec.recommendations import candidates as searching
from msrrec.recommendations.everybody import recommend_everybody
from msrrec.recommendations.rows import read_offers, read_recommendations
from msrrec.retrieval.folder import save_index
from msrrec.schema import Item
from tests.support.engine import build_cramped, build_fake
from tests.support.retrieval import BOUGHT, build_shop_index, write_shop_dataset

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A dataset of eighty users in ``data``, and its index with a new item in ``index``."""
    bought = {f"{user}-{n}": items for n in range(20) for user, items in BOUGHT.items()}
    dataset = write_shop_dataset(tmp_path / "data", bought=bought)
    new = [Item("new", "Camping lamp with stove")]
    save_index(build_shop_index(dataset, "purchases=all", extra=new), str(tmp_path / "index"))
    return tmp_path


def run(shop: Path, out: str, build=build_fake, users=None, *settings: str):  # type: ignore[no-untyped-def]
    config = load_config(None, ["recommend.top_k=2", "recommend.num_candidates=4", *settings])
    return recommend_everybody(
        Dataset.load(str(shop / "data")),
        str(shop / "index"),
        "embedded",
        str(shop / out),
        config,
        users=users,
        build=build,
    )


def digest(folder: Path) -> str:
    files = sorted(folder.glob("part-*.parquet"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def finish(folder: Path) -> None:
    """What the stage does last."""
    storage.write_json(f"{folder}/{storage.RECORD}", {})


@pytest.mark.skipif(not (EMBEDDED_DIR / "config.json").is_file(), reason="no embedded backbone")
def test_all_users_are_offered_items_that_they_lack(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run(shop, "out")
    assert (summary["users"], summary["offered"], summary["refused"]) == (80, 80, 0)
    finish(shop / "out")
    offers = [o for part in read_recommendations(str(shop / "out")) for o in read_offers(part)]
    assert len(offers) == 160
    assert [o.rank for o in offers] == [1, 2] * 80
    for offer in offers:
        assert offer.item_id not in BOUGHT[offer.user_id.partition("-")[0]]
    assert any(offer.item_id == "new" for offer in offers)
    assert all(o.reasoning and o.side and o.perplexity for o in offers if o.rank == 1)
    page = (shop / "out" / "index.html").read_text()
    assert "80 customers" in page
    assert sorted(path.name for path in shop.iterdir()) == ["data", "index", "out"]

    # Searched through Ray Data, with other batches of engines, the same comes out.
    monkeypatch.setattr(searching, "MANY_USERS", 10)
    again = run(shop, "again", build_fake, None, "inference.batch_size=7")
    assert {**again, "out": ""} == {**summary, "out": ""}
    assert digest(shop / "again") == digest(shop / "out")

    # Who is not sure enough is offered nothing.
    unsure = ["recommend.confidence_temperature=2", "recommend.min_confidence=0.99"]
    few = run(shop, "few", build_fake, None, *unsure)
    assert (few["users"], few["offered"], few["refused"]) == (80, 0, 0)

    # Only those that are wanted.
    some = run(shop, "some", build_fake, ["u2-3", "u1-0"])
    assert some["users"] == 2
    with pytest.raises(DataError, match="has no user 'nobody'"):
        run(shop, "none", build_fake, ["u1-0", "nobody"])


@pytest.mark.skipif(not (EMBEDDED_DIR / "config.json").is_file(), reason="no embedded backbone")
def test_a_refused_user_is_a_dead_letter(shop: Path) -> None:
    summary = run(shop, "out", build_cramped, ["u1-0", "u2-0"])
    assert (summary["refused"], summary["offered"]) == (2, 0)
    letters = (shop / "out" / "dead_letters.jsonl").read_text().splitlines()
    assert [json.loads(line)["user_id"] for line in letters] == ["u1-0", "u2-0"]
    assert "the prompt has" in letters[0]
