import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from msrrec.data.sequences import (
    Sequences,
    build_sequences,
    cut_sequences,
    draw_users,
    histories,
    spans,
)

# user 0 bought 10 11 12 13 14; user 1 bought 20 21 22
TWO_USERS = Sequences(np.array([10, 11, 12, 13, 14, 20, 21, 22]), np.array([0, 5, 8]))
IDS = pa.array([str(i) for i in range(30)])


def test_events_with_equal_timestamps_keep_the_order_of_the_input() -> None:
    users = np.array([1, 0, 1, 0, 1, 0])
    items = np.array([9, 8, 7, 6, 5, 4])
    timestamps = np.array([2, 1, 2, 1, 1, 1])
    sequences = build_sequences(users, items, timestamps)
    assert sequences.starts.tolist() == [0, 3, 6]
    assert sequences.items.tolist() == [8, 6, 4, 5, 9, 7]
    assert sequences.users.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_last_event_is_the_test_target_and_the_one_before_it_validation() -> None:
    cuts = cut_sequences(TWO_USERS, history_length=3, train_examples_per_user=0)
    items = TWO_USERS.items
    assert items[cuts["test"].targets].tolist() == [14, 22]
    assert items[cuts["validation"].targets].tolist() == [13, 21]
    assert histories(TWO_USERS, cuts["test"], IDS).to_pylist() == [
        ["11", "12", "13"],
        ["20", "21"],
    ]
    assert histories(TWO_USERS, cuts["validation"], IDS).to_pylist() == [["10", "11", "12"], ["20"]]


def test_every_training_event_with_a_history_can_be_a_target() -> None:
    cuts = cut_sequences(TWO_USERS, history_length=3, train_examples_per_user=0)["train"]
    # user 0 trains on 10 11 12, where 11 and 12 have a history; user 1 on 20 alone
    assert cuts.users.tolist() == [0, 0]
    assert TWO_USERS.items[cuts.targets].tolist() == [11, 12]
    assert histories(TWO_USERS, cuts, IDS).to_pylist() == [["10"], ["10", "11"]]


def test_one_training_example_a_user_is_the_latest() -> None:
    cuts = cut_sequences(TWO_USERS, history_length=3, train_examples_per_user=1)["train"]
    assert TWO_USERS.items[cuts.targets].tolist() == [12]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_spans_count_up_from_each_begin(pairs: list[tuple[int, int]]) -> None:
    begins, lengths = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    expected = [begin + i for begin, length in pairs for i in range(length)]
    assert spans(begins, lengths).tolist() == expected


def test_the_draw_follows_the_seed_and_zero_takes_all() -> None:
    assert sorted(draw_users(6, 0, seed=3)) == list(range(6))
    assert draw_users(6, 2, seed=3).tolist() == draw_users(6, 0, seed=3)[:2].tolist()
    assert draw_users(1000, 5, seed=1).tolist() != draw_users(1000, 5, seed=2).tolist()
