import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msrrec.data.kcore import distinct_rows, k_core

EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), max_size=60)


def columns(events: list[tuple[int, ...]]) -> list[np.ndarray]:
    return list(np.array(events, dtype=np.int64).reshape(-1, 3).T)


def test_one_pass_is_not_enough_for_the_fixed_point() -> None:
    # item 2 is bought once, so user 1 loses an event and falls below 2; then item 1 does, too
    users = np.array([0, 0, 1, 1, 2, 2, 0])
    items = np.array([0, 3, 1, 2, 0, 3, 1])
    assert k_core(users, items, 2).tolist() == [0, 1, 4, 5]


def test_a_core_of_one_keeps_everything_and_a_large_one_nothing() -> None:
    users, items = np.array([0, 1]), np.array([0, 0])
    assert k_core(users, items, 1).tolist() == [0, 1]
    assert k_core(users, items, 3).tolist() == []


@given(EVENTS, st.integers(1, 4))
def test_the_core_is_what_removing_one_weak_user_or_item_at_a_time_leaves(
    events: list[tuple[int, int, int]], k: int
) -> None:
    left = dict(enumerate(events))
    while True:
        weak = {
            row
            for row, (user, item, _) in left.items()
            if sum(e[0] == user for e in left.values()) < k
            or sum(e[1] == item for e in left.values()) < k
        }
        if not weak:
            break
        left.pop(min(weak))
    users, items, _ = columns(events)
    assert k_core(users, items, k).tolist() == sorted(left)


@given(EVENTS)
def test_only_the_first_of_identical_events_stays(events: list[tuple[int, int, int]]) -> None:
    expected = [row for row, event in enumerate(events) if event not in events[:row]]
    assert distinct_rows(*columns(events)).tolist() == expected


def test_the_same_item_at_another_time_is_another_event() -> None:
    users, items, timestamps = np.array([0, 0, 0]), np.array([5, 5, 5]), np.array([1, 2, 1])
    assert distinct_rows(users, items, timestamps).tolist() == [0, 1]
