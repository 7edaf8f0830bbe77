from collections import Counter
from dataclasses import dataclass

from msrrec.baselines import BASELINES
from msrrec.baselines.popularity import choose_popular, count_buyers
from msrrec.baselines.random import choose_random
from msrrec.data.dataset import Dataset
from msrrec.schema import Example, Split


@dataclass(frozen=True)
class TrainOnly(Dataset):
    """A dataset in memory whose test split must not be looked at."""

    train: tuple[Example, ...] = ()

    def examples(self, split: Split, limit: int = 0) -> list[Example]:
        assert split == "train"
        return list(self.train)


def example(
    user: str, history: tuple[str, ...], target: str, candidates: tuple[str, ...] = ()
) -> Example:
    return Example(f"{user}-{target}", user, history, target, candidates or (target, "z"))


TRAIN = (
    example("u1", ("a",), "b"),
    example("u1", ("a", "b"), "c"),  # a and b again: the same user counts once
    example("u2", ("a", "a"), "c"),
    example("u3", ("d",), "a"),
)


def test_buyers_count_once_in_histories_and_targets() -> None:
    assert count_buyers(TRAIN) == Counter({"a": 3, "c": 2, "b": 1, "d": 1})


def test_the_most_bought_candidate_is_chosen_wherever_it_stands() -> None:
    dataset = TrainOnly("", {}, {}, TRAIN)
    asked = [
        example("t1", ("x",), "b", ("b", "c", "d", "z")),
        example("t2", ("x",), "b", ("z", "d", "c", "b")),
        example("t3", ("x",), "z", ("z", "d")),
    ]
    assert choose_popular(dataset, asked, 0) == ["c", "c", "d"]


def test_ties_follow_the_seed_and_not_the_slot() -> None:
    dataset = TrainOnly("", {}, {}, TRAIN)
    names = tuple(f"unknown-{n}" for n in range(6))
    forward = [example("t", ("x",), names[0], names)]
    backward = [example("t", ("x",), names[0], names[::-1])]
    chosen = {seed: choose_popular(dataset, forward, seed) for seed in range(20)}
    assert chosen == {seed: choose_popular(dataset, backward, seed) for seed in range(20)}
    assert len({item for (item,) in chosen.values()}) > 2


def test_random_choices_are_uniform_over_slots_and_repeatable() -> None:
    dataset = TrainOnly("", {}, {})
    names = tuple("abcdef")
    asked = [Example(f"e{n}", f"u{n}", ("x",), "a", names) for n in range(6000)]
    chosen = choose_random(dataset, asked, 0)
    assert chosen == choose_random(dataset, asked, 0)
    assert chosen != choose_random(dataset, asked, 1)
    # 1000 each are expected; five standard deviations are 144.
    assert all(abs(count - 1000) < 144 for count in Counter(chosen).values())


def test_a_random_choice_does_not_depend_on_the_examples_around_it() -> None:
    dataset = TrainOnly("", {}, {})
    asked = [Example(f"e{n}", f"u{n}", ("x",), "a", ("a", "b", "c")) for n in range(50)]
    assert choose_random(dataset, asked[::-1], 3) == choose_random(dataset, asked, 3)[::-1]


def test_both_are_known_by_name() -> None:
    assert set(BASELINES) == {"random", "popularity"}
