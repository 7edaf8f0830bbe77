"""Baselines that choose their settings on validation, and the graph heuristic."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from scipy.sparse import csr_array

from msrrec.baselines import BASELINES, build_baseline
from msrrec.baselines.bm25 import SPACE, Weighing
from msrrec.baselines.choosing import choose_settings, draw_settings
from msrrec.baselines.graph import weigh_words
from msrrec.baselines.interface import Baseline, Writer
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.retrieval.counts import keep_neighbours
from msrrec.schema import Example, Item, Split

TUNED = ("bm25-tuned", "item-knn-tuned", "graph")


@dataclass(frozen=True)
class Shop(Dataset):
    """A dataset in memory whose test split must not be looked at."""

    bought: tuple[tuple[str, ...], ...] = ()
    validation: tuple[Example, ...] = ()

    def examples(self, split: Split, limit: int = 0) -> list[Example]:
        assert split == "validation"
        return list(self.validation)

    def iter_events(self) -> Iterator[tuple[str, list[str]]]:
        """Each user's training events, and two held-out ones."""
        for n, items in enumerate(self.bought):
            yield str(n), [*items, "held", "out"]


def shop(
    titles: dict[str, str],
    bought: Sequence[tuple[str, ...]] = (),
    validation: Sequence[Example] = (),
) -> Shop:
    items = {i: Item(i, title) for i, title in titles.items()}
    return Shop("memory", {}, items, tuple(bought), tuple(validation))


def example(history: tuple[str, ...], target: str, *others: str) -> Example:
    return Example(f"{history}-{target}", "u", history, target, (target, *others))


def build(name: str, trials: int) -> Baseline:
    baseline = build_baseline(name, RunConfig.model_validate({"baselines": {"trials": trials}}))
    assert not isinstance(baseline, Writer)
    return baseline


LETTERS = {letter: f"thing {letter}" for letter in "abcdefz"}


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("trials", [1, 4])
def test_every_tuned_system_makes_as_many_trials_as_the_setting_says(
    name: str, trials: int
) -> None:
    dataset = shop(LETTERS, [("a", "b", "c")], [example(("a",), "b", "z")])
    facts = build(name, trials).fit(dataset, "")
    assert facts["trials"] == trials
    assert "validation_mrr" in facts
    assert "trials" in BASELINES[name].settings


def test_the_usual_settings_come_first_and_all_differ() -> None:
    drawn = draw_settings(Weighing(), SPACE, 12, seed=3)
    assert drawn[0] == Weighing()
    assert len(drawn) == len(set(drawn)) == 12
    assert draw_settings(Weighing(), SPACE, 12, seed=3) == drawn
    assert len(draw_settings(Weighing(), SPACE, 1000, seed=3)) == 60  # all that there are


def test_the_best_on_validation_is_chosen_and_the_first_of_equals() -> None:
    asked = [example(("a",), "b", "c")]
    ranks = {1.0: [[0.0, 1.0]], 2.0: [[1.0, 0.0]], 3.0: [[1.0, 0.0]]}
    trials = [Weighing(k1=k1) for k1 in ranks]
    best, facts = choose_settings(
        trials, shop(LETTERS, validation=asked), lambda trial, _: ranks[trial.k1]
    )
    assert best == trials[1]
    assert facts == {"trials": 3, "k1": 2.0, "b": 0.75, "uses": "mean", "validation_mrr": 1.0}


def test_bm25_takes_the_pooling_that_validation_prefers() -> None:
    titles = {
        "o": "red oak lamp",
        "1": "blue mug",
        "2": "blue cup",
        "3": "blue plate",
        "t": "red oak lamp stand",
        "n": "blue bowl",
    }
    # three titles share "blue" with the wrong one; the maximum sees the one that shares three words
    asked = [example(("o", "1", "2", "3"), "t", "n")] * 3
    found = build("bm25-tuned", 60)
    facts = found.fit(shop(titles, validation=asked), "")
    assert facts["validation_mrr"] == 1.0
    maximum = Weighing(uses="max")
    assert maximum in draw_settings(Weighing(), SPACE, 60, seed=0)
    assert found.score(asked)[0][0] > found.score(asked)[0][1]


def test_only_the_nearest_neighbours_are_kept() -> None:
    similarity = csr_array([[0.0, 0.5, 0.2, 0.9], [0.5, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.0]])
    kept = keep_neighbours(similarity, 2).toarray().tolist()
    assert kept == [[0.0, 0.5, 0.0, 0.9], [0.5, 0.0, 0.0, 0.0], [0.0, 0.2, 0.3, 0.0]]
    assert keep_neighbours(similarity, None) is similarity


def test_item_knn_tuned_learns_who_buys_together() -> None:
    bought = [("a", "b")] * 5 + [("c", "d")] * 5
    found = build("item-knn-tuned", 4)
    found.fit(shop(LETTERS, bought, [example(("a",), "b", "d")]), "")
    ((near, far),) = found.score([example(("c",), "d", "b")])
    assert near > far == 0.0


def test_the_graph_ranks_by_steps_from_the_last_purchases_and_then_by_words() -> None:
    titles = {"a": "lamp", "b": "mug", "c": "red cup", "d": "tin", "e": "oak lamp", "f": "oak"}
    found = build("graph", 1)  # the usual: the last two purchases, two steps, one way
    found.fit(shop(titles, [("a", "b", "c"), ("d", "a")], [example(("a",), "b", "d")]), "")
    (values,) = found.score([example(("c", "d", "a"), "b", "c", "f", "e")])
    # starts d and a: b and a are one step away, c two; f and e are not reached
    assert [math.floor(value) for value in values] == [2, 1, 0, 0]
    # of what is as near, words decide: e shares "lamp" with a, so half its cosine is left
    vectors = weigh_words({i: Item(i, title) for i, title in titles.items()})
    assert values[2] == 0.0
    assert values[3] == pytest.approx(vectors["e"]["lamp"] / 2)
    # ln(1 + 6 / 2) for lamp and oak, which stand in two titles each
    assert vectors["e"]["lamp"] == pytest.approx(1 / math.sqrt(2))


def test_the_graph_takes_the_direction_that_validation_prefers() -> None:
    # d came before a in training, and validation asks for what came before
    dataset = shop(LETTERS, [("d", "a"), ("a", "b")], [example(("a",), "d", "z")] * 3)
    found = build("graph", 12)
    facts = found.fit(dataset, "")
    assert facts["both_ways"] is True
    assert facts["validation_mrr"] == 1.0
