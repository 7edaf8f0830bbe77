"""Retrieval over a whole catalogue: what each retriever finds, their union, changes of items."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from msrrec.config import load_config
from msrrec.errors import ConfigError, DataError
from msrrec.retrieval.build import build_index, read_purchases
from msrrec.retrieval.counts import PurchaseCodes, count_together, count_transitions, shrink_cosine
from msrrec.retrieval.index import Index
from msrrec.retrieval.ranking import Ranking, fuse_ranks, keep_first, take_best
from msrrec.retrieval.tuning import collect_pairs
from msrrec.retrieval.words import WordTable, bm25_weight, word_rarity
from msrrec.schema import Item
from tests.support.retrieval import BOUGHT, SHOP, build_shop_index, ids, only, write_shop_dataset


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return build_shop_index(write_shop_dataset(tmp_path))


def test_what_follows_counts_less_the_later_it_follows() -> None:
    purchases = PurchaseCodes.collect([[0, 1, 2], [0, 2], [3]], 4)
    # 0 then 1 directly; 0 then 2 once two steps later and once directly; 1 then 2 directly.
    expected = [[0, 1, 1.5, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert count_transitions(purchases, 10).toarray().tolist() == expected
    assert count_transitions(purchases, 1).toarray()[0].tolist() == [0, 1, 1, 0]


def test_a_purchase_repeated_by_a_user_counts_once_among_buyers() -> None:
    together = count_together(PurchaseCodes.collect([[0, 0, 1], [0], []], 2))
    assert together.toarray().tolist() == [[2, 1], [1, 1]]
    # 1 / (sqrt(2 * 1) + 3)
    assert shrink_cosine(together, 3.0).toarray()[0].tolist() == pytest.approx(
        [0, 1 / (2**0.5 + 3)]
    )


def test_only_training_purchases_are_learned_from_unless_told_otherwise(tmp_path: Path) -> None:
    dataset = write_shop_dataset(tmp_path)
    # In training: lamp u1 u2, bulb u1 u2, table u1 u2, tent u3 u4, stove u3 u4, mug u3.
    assert build_shop_index(dataset).buyers.tolist() == [2, 2, 2, 2, 2, 1]
    assert build_shop_index(dataset, "purchases=all").buyers.tolist() == [4, 4, 2, 4, 2, 3]


def test_weighted_reciprocal_ranks_are_added_and_ties_broken_by_order() -> None:
    order = np.array([3, 2, 1, 0])
    rankings = [np.array([0, 1]), np.array([1, 2])]
    fused = fuse_ranks(rankings, [1.0, 2.0], 60, order)
    # 1: 1/62 + 2/61; 2: 2/62; 0: 1/61
    assert fused.codes.tolist() == [1, 2, 0]
    assert fused.scores.tolist() == pytest.approx([1 / 62 + 2 / 61, 2 / 62, 1 / 61])
    same = fuse_ranks([np.array([0]), np.array([2])], [1.0, 1.0], 60, order)
    assert same.codes.tolist() == [2, 0]
    assert len(fuse_ranks([], [], 60, order).codes) == 0


def test_the_best_of_equal_scores_are_those_that_come_first_in_order() -> None:
    codes, scores = np.arange(5), np.array([1, 2, 2, 2, 0], dtype=np.float32)
    assert take_best(codes, scores, np.array([0, 9, 1, 5, 0]), 2).tolist() == [2, 3]
    assert take_best(codes, scores, np.zeros(5, dtype=np.int64), 9).tolist() == [1, 2, 3, 0, 4]


def test_of_equal_titles_the_better_one_is_kept() -> None:
    ranking = Ranking(np.array([4, 2, 0]), np.array([3.0, 2.0, 1.0]))
    kept = keep_first(ranking, np.array([7, 1, 5, 1, 7]))
    assert (kept.codes.tolist(), kept.scores.tolist()) == ([4, 2], [3.0, 2.0])


def test_words_weigh_as_in_bm25() -> None:
    table = WordTable.build([Item("a", "red lamp"), Item("b", "red red mug", ("Kitchen",), "Ace")])
    # Two texts of 2 and 5 words, 3.5 on average; `red` stands in both, `mug` in one.
    red = bm25_weight(word_rarity(2, 2), 2.0, 5 / 3.5, 1.5, 0.75)
    mug = bm25_weight(word_rarity(2, 1), 1.0, 5 / 3.5, 1.5, 0.75)
    column = {word: float(table.weights[[n], [1]][0]) for word, n in table.vocabulary.items()}
    assert column == pytest.approx({"red": red, "lamp": 0, "mug": mug, "kitchen": mug, "ace": mug})


def test_rows_added_and_replaced_give_the_table_built_with_them() -> None:
    items = [Item("a", "red lamp"), Item("b", "tin mug"), Item("c", "blue lamp")]
    whole = WordTable.build(items)
    grown = WordTable.build([items[0], Item("b", "old words")]).replace(np.array([1, 2]), items[1:])
    for word, n in whole.vocabulary.items():
        found = grown.weights[[grown.vocabulary[word]]].toarray()
        assert found.tolist() == whole.weights[[n]].toarray().tolist(), word


def test_each_retriever_finds_by_its_own_evidence(tmp_path: Path) -> None:
    dataset = write_shop_dataset(tmp_path)
    found = {
        name: [
            item.item_id
            for item in build_shop_index(dataset, *only(name)).search([["lamp"]], 6)[0]
            if item.ranks
        ]
        for name in ("transitions", "copurchase", "words", "popularity")
    }
    # bulb follows the lamp directly, the table one later; neither ever precedes it.
    assert found["transitions"] == ["bulb", "table"]
    assert sorted(found["copurchase"]) == ["bulb", "table"]
    assert found["words"] == ["table"]
    # Two buyers each, in the catalogue's order, and the mug has one.
    assert found["popularity"] == ["table", "bulb", "tent", "stove", "mug"]


def test_later_purchases_weigh_more(tmp_path: Path) -> None:
    titles = {**SHOP, "rug": "Red rug", "pegs": "Tent pegs"}
    index = build_shop_index(write_shop_dataset(tmp_path, titles), *only("words"), "decay=0.2")
    assert ids(index.search([["lamp", "tent"]], 1)[0]) == ["pegs"]
    assert ids(index.search([["tent", "lamp"]], 1)[0]) == ["table"]


def test_nothing_bought_comes_back_unless_repeats_are_wanted(index: Index) -> None:
    bought = ["lamp", "bulb", "tent"]
    assert sorted(ids(index.search([bought], 9)[0])) == ["mug", "stove", "table"]
    again = load_config(None, ["retrieval.repeats=true", "retrieval.tuning_users=0"]).retrieval
    found = index.configure(again).search([bought], 9)[0]
    assert len(found) == len(SHOP)
    assert found[0].ranks["repeats"] in (1, 2, 3)
    assert {r.item_id: r.ranks.get("repeats") for r in found} == {
        **{"tent": 1, "bulb": 2, "lamp": 3},
        **dict.fromkeys(("mug", "stove", "table")),
    }


def test_the_same_title_under_another_id_is_the_same_thing(tmp_path: Path) -> None:
    titles = {**SHOP, "lamp-2": "RED OAK lamp!", "mug-2": "Tin  Mug"}
    index = build_shop_index(write_shop_dataset(tmp_path, titles))
    found = ids(index.search([["lamp"]], 9)[0])
    assert "lamp-2" not in found
    assert len({"mug", "mug-2"} & set(found)) == 1  # two of one title can't be told apart
    assert index.catalogue.find_title("tin mug") == ["mug", "mug-2"]


def test_further_items_may_be_excluded(index: Index) -> None:
    found = index.search([["lamp"], ["lamp"]], 9, excluded=[["bulb", "unknown"], []])
    assert "bulb" not in ids(found[0])
    assert "bulb" in ids(found[1])
    with pytest.raises(ValueError, match="1 lists of excluded items for 2"):
        index.search([["lamp"], ["lamp"]], 9, excluded=[["bulb"]])
    with pytest.raises(ValueError, match="count=0"):
        index.search([["lamp"]], 0)


def test_a_history_of_unknown_items_gets_what_is_popular(index: Index) -> None:
    popular = ids(index.search([[]], 9)[0])
    assert popular == ["lamp", "table", "bulb", "tent", "stove", "mug"]
    assert ids(index.search([["gone", "never-seen"]], 9)[0]) == popular
    told = index.search([["gone", Item("other", "A TENT of another shop")]], 2)[0]
    assert ids(told)[0] == "tent"
    assert told[0].ranks["words"] == 1


def test_who_bought_everything_gets_nothing(index: Index) -> None:
    assert index.search([list(SHOP), ["lamp"]], 3)[0] == []


def test_a_catalogue_of_one_item_works(tmp_path: Path) -> None:
    bought = {"u": ("a", "a", "a")}
    index = build_index(
        write_shop_dataset(tmp_path, {"a": "Lamp"}, bought), load_config().retrieval
    )
    assert ids(index.search([[], ["a"]], 5)[0]) == ["a"]
    assert index.search([["a"]], 5) == [[]]


def test_a_history_of_5000_purchases_counts_like_its_latest(index: Index) -> None:
    long = ["stove"] * 5000 + ["lamp"]
    assert ids(index.search([long], 3)[0]) == ids(index.search([["stove"] * 60 + ["lamp"]], 3)[0])


def test_many_histories_get_what_each_gets_alone(tmp_path: Path) -> None:
    index = build_shop_index(write_shop_dataset(tmp_path), "depth=2")
    histories = [[], ["lamp"], ["tent", "mug"], ["mug", "lamp", "bulb"], ["x"]]
    assert index.search(histories, 4) == [index.search([h], 4)[0] for h in histories]
    assert index.search([], 4) == []


def test_a_new_item_is_found_by_its_text_and_a_removed_one_is_not(index: Index) -> None:
    with_rug = index.add([Item("rug", "Red oak rug")])
    assert ids(with_rug.search([["lamp"]], 9)[0])[:3].count("rug") == 1
    assert "rug" not in ids(index.search([["lamp"]], 9)[0])  # the index itself is as it was
    gone = with_rug.remove(["rug", "table"])
    assert {"rug", "table"}.isdisjoint(ids(gone.search([["lamp"]], 9)[0]))
    # A removed item in a history still says what goes with it.
    assert ids(gone.search([["table"]], 1)[0]) == ids(index.search([["table"]], 1)[0])
    back = gone.add([Item("table", "Walnut table")])
    assert "table" in ids(back.search([["lamp"]], 9)[0])
    assert back.catalogue.find_title("red oak table") == []


def test_an_added_item_of_a_known_id_gets_the_new_text(index: Index) -> None:
    changed = index.add([Item("mug", "Camping mug"), Item("mug", "Red oak mug")])  # the last counts
    assert len(changed.catalogue) == len(index.catalogue)
    assert changed.catalogue.items[changed.catalogue.codes["mug"]].title == "Red oak mug"
    assert changed.search([["lamp"]], 9)[0][0].ranks.keys() >= {"words"}
    assert "mug" in ids(changed.configure(index.settings).search([["tent"]], 9)[0])
    assert changed.buyers is index.buyers  # it is still the item that was bought


def test_a_title_of_400_000_characters_is_cut_and_an_invisible_one_refused(index: Index) -> None:
    grown = index.add([Item("long", "Red oak " + "x" * 400_000)])
    assert len(grown.catalogue.items[-1].title) <= 160
    assert "long" in ids(grown.search([["lamp"]], 9)[0])
    with pytest.raises(DataError, match="'void': its title has no visible character"):
        index.add([Item("void", " \u200b ")])
    with pytest.raises(DataError, match="the id is empty"):
        index.add([Item("", "Lamp")])
    with pytest.raises(DataError, match="item 'gone': the index does not offer it"):
        index.remove(["gone"])


def test_the_version_follows_from_what_was_learned_and_changed(tmp_path: Path) -> None:
    dataset = write_shop_dataset(tmp_path)
    index, same = build_shop_index(dataset), build_shop_index(dataset)
    rug = Item("rug", "Rug")
    assert index.version == same.version
    assert index.add([rug]).version == same.add([rug]).version != index.version
    assert index.add([rug]).remove(["rug"]).version not in (index.version, index.add([rug]).version)
    assert index.add([]) is index
    assert build_shop_index(dataset, "purchases=all").version != index.version
    assert build_shop_index(dataset, extra=[rug]).version == index.add([rug]).version
    index.require_dataset(dataset.fingerprint, "model")
    with pytest.raises(DataError, match="model: was made from dataset other, the index from"):
        index.require_dataset("other", "model")


def test_weights_are_chosen_on_validation_and_given_ones_stay(tmp_path: Path) -> None:
    # Everybody buys b after a and d after c, whatever else is popular or sounds alike.
    titles = {"a": "Red one", "b": "Blue two", "c": "Red three", "d": "Green four", "e": "Red five"}
    bought = {f"u{n}": ("e", "a", "b", "c", "d", "e") for n in range(6)}
    dataset = write_shop_dataset(tmp_path, titles, bought)
    settings = load_config(None, ["retrieval.weights.words=2"]).retrieval
    index = build_index(dataset, settings)
    assert index.weights["words"] == 2
    assert "words" not in index.chosen
    assert set(index.chosen) == {"transitions", "copurchase", "popularity"}


def test_coverage_of_weights_is_counted_from_the_rankings() -> None:
    found = [
        {"words": np.array([5, 3]), "popularity": np.array([1])},
        {"words": np.array([], dtype=np.int64), "popularity": np.array([2, 4])},
        {"words": np.array([], dtype=np.int64), "popularity": np.array([], dtype=np.int64)},
    ]
    pairs = collect_pairs(("words", "popularity"), found, np.array([3, 4, 0]), 60)
    assert pairs.num_users == 3
    assert pairs.coverage({"words": 1.0, "popularity": 1.0}) == pytest.approx(2 / 3)
    assert pairs.coverage({"words": 0.0, "popularity": 1.0}) == pytest.approx(1 / 3)
    assert pairs.coverage({"words": 0.0, "popularity": 0.0}) == 0


def test_an_event_of_an_item_that_the_dataset_lacks_is_named(tmp_path: Path) -> None:
    dataset = write_shop_dataset(tmp_path, bought={**BOUGHT, "u9": ("lamp", "gone", "mug")})
    with pytest.raises(DataError, match="user 'u9' bought item 'gone'"):
        read_purchases(dataset)


def test_purchases_are_cut_at_each_users_end() -> None:
    purchases = PurchaseCodes.collect([[0, 1, 2], [3, 0, 1, 1]], 4)
    cut = purchases.cut(purchases.starts[1:] - 2)
    assert (cut.items.tolist(), cut.starts.tolist()) == ([0, 3, 0], [0, 1, 3])
    assert cut.users.tolist() == [0, 1, 1]
    assert isinstance(count_together(cut), csr_array)


def test_a_weight_of_a_retriever_that_is_not_there_is_refused(tmp_path: Path) -> None:
    dataset = write_shop_dataset(tmp_path)
    for name, needed in (
        *(("sasrec", "--sasrec"), ("embedding", "retrieval.embedding_model")),
        ("repeats", "retrieval.repeats=true"),
    ):
        with pytest.raises(ConfigError, match=rf"weights\.{name}=2: the index has .* {needed}"):
            build_shop_index(dataset, f"weights.{name}=2")
    build_shop_index(dataset, "weights.sasrec=0")
