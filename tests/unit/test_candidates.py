import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.data.candidates import CandidateSampler, balanced_slots
from msrrec.data.sequences import Sequences, cut_sequences
from msrrec.errors import DataError


def world(num_users: int, num_items: int, length: int, seed: int) -> tuple[Sequences, np.ndarray]:
    """Users with random items; every third item shares its title with the one before."""
    rng = np.random.default_rng(seed)
    items = rng.integers(num_items, size=num_users * length)
    titles = np.arange(num_items) - (np.arange(num_items) % 3 == 2)
    return Sequences(items, np.arange(0, len(items) + 1, length)), np.unique(
        titles, return_inverse=True
    )[1]


@given(st.integers(1, 40), st.integers(3, 8), st.integers(0, 1000))
def test_a_set_holds_the_target_and_untouched_items_of_distinct_titles(
    num_users: int, length: int, seed: int
) -> None:
    sequences, titles = world(num_users, 40, length, seed)
    sampler = CandidateSampler(sequences, titles, 5)
    for cuts in cut_sequences(sequences, 10, 0).values():
        drawn = sampler.draw(cuts, np.random.default_rng(seed))
        assert drawn.shape == (len(cuts.targets), 6)
        for user, target, row in zip(cuts.users, cuts.targets, drawn, strict=True):
            own = sequences.items[sequences.starts[user] : sequences.starts[user + 1]]
            negatives = [item for item in row if item != sequences.items[target]]
            assert len(negatives) == 5
            assert not set(titles[negatives]) & set(titles[own])
            assert len(set(titles[row])) == 6


def test_target_slots_are_balanced_to_within_one() -> None:
    sequences, titles = world(100, 500, 4, 0)
    cuts = cut_sequences(sequences, 10, 1)["test"]
    drawn = CandidateSampler(sequences, titles, 5).draw(cuts, np.random.default_rng(0))
    slots = (drawn == sequences.items[cuts.targets][:, None]).argmax(axis=1)
    assert sorted(np.bincount(slots)) == [16, 16, 17, 17, 17, 17]  # 100 users over 6 slots
    assert slots.tolist() != sorted(slots)


@pytest.mark.parametrize("num_users", [1, 5, 6, 20, 61, 100])
def test_target_slots_are_balanced_among_the_first_users_too(num_users: int) -> None:
    slots = balanced_slots(100, 6, np.random.default_rng(1))[:num_users]
    counts = np.bincount(slots, minlength=6)
    assert counts.max() - counts.min() <= 1
    # the positions of an unfinished block are random
    last = {tuple(sorted(balanced_slots(4, 6, np.random.default_rng(n)))) for n in range(20)}
    assert len(last) > 5


def test_negatives_are_drawn_uniformly() -> None:
    # one item touched, 10 others; 2 of 10 drawn 6,000 times: each 1,200 times, sd about 31
    sequences = Sequences(np.zeros(3 * 6000, dtype=np.int64), np.arange(0, 18_001, 3))
    cuts = cut_sequences(sequences, 10, 1)["test"]
    sampler = CandidateSampler(sequences, np.arange(11), 2)
    counts = np.bincount(sampler.draw(cuts, np.random.default_rng(0)).ravel(), minlength=11)
    assert counts[0] == 6000
    assert np.abs(counts[1:] - 1200).max() < 140


def test_a_user_who_leaves_too_few_items_is_named() -> None:
    # ann touched 4 of 8 titles, bob 2: ann leaves 4
    sequences = Sequences(np.array([0, 1, 2, 3, 4, 4, 5]), np.array([0, 4, 7]))
    sampler = CandidateSampler(sequences, np.arange(8), 5)
    with pytest.raises(DataError, match=r"user 'ann': leaves 4 of 8 items .* at least 5"):
        sampler.check(["ann", "bob"])
    CandidateSampler(sequences, np.arange(8), 4).check(["ann", "bob"])


def test_items_of_one_title_count_once() -> None:
    # items 4 to 8 share a title, so beside the touched four there is one title left
    sequences = Sequences(np.array([0, 1, 2, 3]), np.array([0, 4]))
    sampler = CandidateSampler(sequences, np.array([0, 1, 2, 3, 4, 4, 4, 4, 4]), 2)
    with pytest.raises(DataError, match="leaves 1 of 5"):
        sampler.check(["ann"])


def test_a_way_to_draw_that_knows_too_few_items_is_helped_out() -> None:
    # The user touched items 0 to 2; the way knows only 2 and 3, and four negatives are asked for.
    sequences = Sequences(np.arange(3), np.array([0, 3]))
    titles = np.arange(8)
    sampler = CandidateSampler(
        sequences, titles, 4, lambda t, rng: rng.integers(2, 4, size=t.shape)
    )
    cuts = cut_sequences(sequences, 10, 1)["test"]
    (drawn,) = sampler.draw(cuts, np.random.default_rng(0))
    assert len(set(drawn)) == 5
    assert {2, 3} <= set(drawn)  # 2 is the target
    assert not {0, 1} & set(drawn)
