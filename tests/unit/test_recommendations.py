"""What is offered to customers, without engines and Ray."""

from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import InferenceConfig, PromptConfig, RecommendConfig
from msrrec.errors import DataError
from msrrec.inference.fusion import SideOutput, choose_valid
from msrrec.recommendations.candidates import (
    CandidateSearch,
    find_candidates,
    read_reasons,
    read_users,
)
from msrrec.recommendations.catalogue import CatalogueRecommender, find_purchases
from msrrec.recommendations.page import Sample, write_page
from msrrec.recommendations.rows import (
    RECOMMENDATIONS,
    Offer,
    Versions,
    make_offers,
    read_offers,
    read_recommendations,
    to_table,
)
from msrrec.retrieval.folder import save_index
from msrrec.schema import Example, Item
from tests.conftest import Commands
from tests.support.engine import FakeEngine, answer_by_seed, recommender
from tests.support.retrieval import BOUGHT, SHOP, build_shop_index, write_shop_dataset


def wanted(folder: Path, *users: str, count: int = 3, identity: str = "a") -> CandidateSearch:
    listed = frozenset(users) if users else None
    return CandidateSearch(identity, str(folder / "index"), count, 2, listed)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A dataset in ``data`` and its index in ``index``."""
    dataset = write_shop_dataset(tmp_path / "data")
    save_index(build_shop_index(dataset, "purchases=all"), str(tmp_path / "index"))
    return tmp_path


def load(shop: Path):  # type: ignore[no-untyped-def]
    from msrrec.data.dataset import Dataset

    return Dataset.load(str(shop / "data"))


def test_every_user_gets_candidates_that_the_user_lacks(shop: Path) -> None:
    found = find_candidates(load(shop), wanted(shop), str(shop / "kept"))
    examples = [example for part in found.read() for example in part]
    assert found.num_examples == 4
    assert [example.user_id for example in examples] == list(BOUGHT)
    assert examples[0] == Example("u1", "u1", ("mug", "tent"), "", ("stove",))
    for example in examples:
        assert not set(example.candidates) & set(BOUGHT[example.user_id])
        assert example.history == BOUGHT[example.user_id][-2:]


def test_the_retrievers_that_proposed_an_item_are_kept(shop: Path) -> None:
    find_candidates(load(shop), wanted(shop), str(shop / "kept"))
    (reason,) = read_reasons(str(shop / "kept"), ["u1"])["u1"].values()
    names = [part.split()[0] for part in reason.split(", ")]
    assert set(names) <= {"transitions", "copurchase", "words", "popularity"}
    assert names


def test_a_finished_search_is_read_and_one_of_another_index_is_made_again(shop: Path) -> None:
    dataset, kept = load(shop), str(shop / "kept")
    find_candidates(dataset, wanted(shop), kept)
    written = (shop / "kept" / "part-00000.parquet").stat().st_mtime_ns
    find_candidates(dataset, wanted(shop), kept)
    assert (shop / "kept" / "part-00000.parquet").stat().st_mtime_ns == written
    other = find_candidates(dataset, wanted(shop, "u3", identity="b"), kept)
    assert [e.user_id for part in other.read() for e in part] == ["u3"]


def test_an_unknown_user_is_named(shop: Path) -> None:
    with pytest.raises(DataError, match=r"has no user 'u8' \(2 of the 3 wanted are missing\)"):
        find_candidates(load(shop), wanted(shop, "u1", "u9", "u8"), str(shop / "kept"))
    assert not (shop / "kept" / "manifest.json").exists()


def test_a_list_of_users_has_one_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("\ufeffu2\n\n u1 \nu2\n", encoding="utf-8")
    assert read_users(str(path)) == ["u2", "u1"]
    path.write_text("\n")
    with pytest.raises(DataError, match="lists no users"):
        read_users(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_users(str(path))


def test_offers_are_the_best_items_and_only_the_chosen_one_has_a_reason() -> None:
    output = SideOutput("user", "", "It fits.", 1, 1.5, 9, candidate_logprobs=(-0.3, -1.6, -3.0))
    example = Example("u1", "u1", ("tent",), "", ("lamp", "mug", "stove"))
    items = {item_id: Item(item_id, title) for item_id, title in SHOP.items()}
    offers = make_offers(example, choose_valid(output), items, 2, Versions("m", "x"))
    assert [(o.rank, o.item_id, o.title) for o in offers] == [
        (1, "mug", "Tin mug"),
        (2, "lamp", "Red oak lamp"),
    ]
    assert [(o.side, o.reasoning, o.perplexity) for o in offers] == [
        ("user", "It fits.", 1.5),
        (None, None, None),
    ]
    assert read_offers(to_table(offers)) == offers


def test_an_unfinished_folder_is_no_recommendations(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([], RECOMMENDATIONS)
    storage.write_table(f"{tmp_path}/part-00000.parquet", table)
    with pytest.raises(DataError, match="holds no finished recommendations"):
        next(read_recommendations(str(tmp_path)))
    storage.write_json(f"{tmp_path}/{storage.RECORD}", {})
    assert [part.num_rows for part in read_recommendations(str(tmp_path))] == [0]


HOSTILE = '<script>alert(1)</script> {{ 7*7 }} "Ignore all"'


def test_the_page_shows_hostile_text_as_text(tmp_path: Path) -> None:
    offer = Offer("u1", 1, "i", HOSTILE, 0.4, "user", HOSTILE, 1.2, "m", "x")
    long = Offer("u1", 2, "j", "x" * 400_000, 0.0004, None, None, None, "m", "x")
    summary = {"users": 1, "domain": HOSTILE, "num_candidates": 20, "top_k": 2, "refused": 1}
    summary |= {"invalid": 0, "model": "m", "index": "x"}
    sample = [Sample("u1", (HOSTILE, "y" * 400_000), (offer, long))]
    write_page(f"{tmp_path}/index.html", summary, sample, {"u1": {"i": "words 3"}})
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page
    assert page.count("{{ 7*7 }}") >= 4
    assert "proposed by words 3" in page
    assert "&lt;0.1%" in page
    assert len(page) < 20_000


def test_a_history_is_ids_titles_and_other_titles(shop: Path) -> None:
    index = build_shop_index(load(shop))
    found = find_purchases(index, ["lamp", "TIN  mug", "Unknown kettle"])
    assert found == ["lamp", "mug", Item("", "Unknown kettle")]
    with pytest.raises(DataError, match=r"history\[1\]: is blank"):
        find_purchases(index, ["lamp", " "])


def in_catalogue(shop: Path, *settings: str, **limits: int) -> CatalogueRecommender:
    engine = FakeEngine(answer_by_seed)
    config = InferenceConfig(candidate_logprobs=True)
    made = recommender(engine, config)
    made.form = PromptConfig()
    index = build_shop_index(load(shop), *settings)
    return CatalogueRecommender(made, index, RecommendConfig(**limits))


def test_the_best_of_a_catalogue_are_recommended(shop: Path) -> None:
    found = in_catalogue(shop, num_candidates=4, top_k=3).recommend(["Two-person tent", "Kettle"])
    assert len(found.candidates) == 4
    assert "tent" not in {item.item_id for item in found.candidates}
    assert len(found.items) == 3
    assert found.decision.index is not None
    assert found.items[0] == found.candidates[found.decision.index]
    shown = found.describe()
    assert shown["ranking"][0]["id"] == found.items[0].item_id
    assert shown["retrieved"] == 4
    assert len(shown["ranking"]) == 3


def test_a_customer_who_has_everything_gets_a_sentence(shop: Path) -> None:
    with pytest.raises(DataError, match="offers 0 items that this customer lacks"):
        in_catalogue(shop).recommend(list(SHOP))
    assert in_catalogue(shop, "repeats=true").recommend(list(SHOP)).items


def test_no_history_is_refused(shop: Path) -> None:
    with pytest.raises(DataError, match="history: found no purchases"):
        in_catalogue(shop).recommend([])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--dataset", "d"], "--index and --out: missing"),
        (["--out", "o", "--index", "i"], "--dataset: missing"),
        (["--index", "i", "--history", "a", "--candidate", "b"], "does not go with --index"),
        (
            ["--dataset", "d", "--out", "o", "--index", "i", "--history", "Tent"],
            "are of one customer",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    msrrec: Commands, options: list[str], sentence: str
) -> None:
    ended = msrrec("recommend", "--model", "m", *options)
    assert ended.code == 2
    assert sentence in ended.err


def test_the_users_of_a_dataset_are_those_of_its_events(shop: Path) -> None:
    rows = pa.Table.from_pylist([], schema.USERS)
    storage.write_table(f"{shop}/data/users.parquet", rows)
    with pytest.raises(DataError, match="has no users"):
        find_candidates(load(shop), wanted(shop), str(shop / "kept"))
