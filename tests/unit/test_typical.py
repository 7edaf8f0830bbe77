"""Customers that nobody is, for those who try a model out."""

from pathlib import Path

from msrrec.data.dataset import Dataset
from msrrec.data.typical import imagine_customers, typical_customers
from msrrec.schema import Item
from tests.support.dataset import write_dataset


def shelf(category: str, *titles: str) -> list[Item]:
    return [Item(title, title, ("Shop", category)) for title in titles]


def test_each_keeps_to_a_popular_category_and_the_right_candidate_moves() -> None:
    items = [
        *shelf("Tents", "dome", "tarp", "peg", "rope", "pole"),
        *shelf("Pans", "wok", "lid", "pot", "pan"),
        *shelf("Books", "map", "atlas"),
    ]
    bought = {"dome": 9, "peg": 7, "tarp": 5, "rope": 3, "wok": 8, "map": 1, "atlas": 2}
    first, second = imagine_customers(items, bought)
    assert first == {"history": ["tarp", "peg", "dome"], "candidates": ["wok", "rope", "atlas"]}
    assert second == {"history": ["pan", "lid", "wok"], "candidates": ["dome", "atlas", "pot"]}


def test_titles_are_cleaned_and_told_once() -> None:
    titles = ("A &amp; B", "a & b", "C " * 9_000, "D", "E")
    items = [Item(str(n), title, ("Toys",)) for n, title in enumerate(titles)]
    (found,) = imagine_customers(items, {"0": 3, "1": 2, "2": 1})
    _, cut, first = found["history"]
    assert (len(cut) <= 120, cut[:4], cut[-1], first) == (True, "C C ", "…", "A & B")
    assert found["candidates"] == ["E"]


def test_without_categories_there_are_none() -> None:
    assert imagine_customers([Item(str(n), str(n)) for n in range(9)], {}) == []


def test_a_dataset_counts_its_training_examples(tmp_path: Path) -> None:
    dataset: Dataset = write_dataset(tmp_path, num_users=30)
    titles = {item.title for item in dataset.items.values()}
    for customer in typical_customers(dataset):
        assert len(customer["history"]) == 3
        assert titles >= {*customer["history"], *customer["candidates"]}
