"""What becomes of batches whose engine was lost."""

from collections.abc import Iterator

from msrrec.inference.work import Batch, Work
from msrrec.schema import Example

HERE, GONE = "node-1", "node-2"


def example(n: int) -> Example:
    return Example(f"u{n}", f"u{n}", ("a",), "b", ("b", "c"))


def batch(*numbers: int) -> Batch:
    return Batch(numbers[0], numbers[-1] + 1, tuple(map(example, numbers)))


def ids(found: Batch | None) -> list[str]:
    return [e.example_id for e in found.examples] if found else []


def work(*batches: Batch, num_engines: int = 1, has_answers: bool = True) -> Work:
    return Work(batches, num_engines, has_answers)


def take(waiting: Work) -> Batch:
    found = waiting.take()
    assert found is not None
    return found


def test_a_batch_of_a_lost_machine_comes_again_as_it_was_after_the_new_ones() -> None:
    waiting = work(batch(0, 1), batch(2))
    first = take(waiting)
    assert waiting.report_death([first], GONE, {HERE}) is None
    found = [waiting.take(beside_others=True) for _ in range(3)]
    assert [ids(one) for one in found] == [["u2"], ["u0", "u1"], []]


def test_a_batch_that_killed_its_engine_comes_again_in_sixteen_parts_then_alone() -> None:
    waiting = work(batch(*range(40)))
    assert waiting.report_death([take(waiting)], HERE, {HERE}) is None
    parts = [take(waiting) for _ in range(14)]
    assert waiting.take() is None
    assert [len(part.examples) for part in parts] == [3] * 13 + [1]
    assert ids(parts[1]) == ["u3", "u4", "u5"]
    assert waiting.report_death([parts[1]], HERE, {HERE}) is None
    assert [ids(waiting.take()) for _ in range(4)] == [["u3"], ["u4"], ["u5"], []]


def test_batches_that_an_engine_held_together_are_tried_again_one_at_a_time() -> None:
    waiting = work(batch(0, 1, 2), batch(3, 4), batch(5), batch(6))
    first, second = take(waiting), take(waiting)
    left = first.without({"u1"})
    assert waiting.report_death([left, second], HERE, {HERE}) is None
    assert ids(waiting.take(beside_others=True)) == ["u5"]
    assert ids(waiting.take(beside_others=True)) == ["u6"]
    assert waiting.take(beside_others=True) is None
    assert waiting.count_waiting(9) == 2
    alone = take(waiting)
    assert (ids(alone), alone.is_suspect) == (["u0", "u2"], True)
    assert waiting.report_death([alone], HERE, {HERE}) is None
    assert [ids(waiting.take()) for _ in range(4)] == [["u3", "u4"], ["u0"], ["u2"], []]


def test_a_death_beside_others_does_not_count_against_an_example() -> None:
    waiting = work(batch(0), batch(1))
    assert waiting.report_death([take(waiting), take(waiting)], HERE, {HERE}) is None
    first, second = take(waiting), take(waiting)
    assert waiting.report_death([first], HERE, {HERE}) is None
    assert waiting.report_death([second], HERE, {HERE}) is None
    assert ids(waiting.report_death([take(waiting)], HERE, {HERE})) == ["u0"]


def test_an_example_is_given_up_after_it_killed_two_engines_alone() -> None:
    waiting = work(batch(7))
    assert waiting.report_death([take(waiting)], HERE, {HERE}) is None
    assert ids(waiting.report_death([take(waiting)], HERE, {HERE})) == ["u7"]
    assert waiting.take() is None


def test_no_number_of_lost_machines_gives_an_example_up() -> None:
    waiting = work(batch(7))
    for _ in range(3):
        assert waiting.report_death([take(waiting)], GONE, {HERE}) is None
        waiting.report_answers()
    # The process died first, and its machine a moment later.
    assert waiting.report_death([take(waiting)], GONE, {HERE, GONE}) is None
    assert waiting.report_death([take(waiting)], HERE, {HERE}) is None
    assert ids(waiting.report_death([take(waiting)], HERE, {HERE})) == ["u7"]


def test_an_example_is_not_given_up_where_engines_never_answered() -> None:
    waiting = work(batch(7), has_answers=False)
    for _ in range(3):
        assert waiting.report_death([take(waiting)], HERE, {HERE}) is None
        assert not waiting.is_hopeless
    assert waiting.report_death([take(waiting)], HERE, {HERE}) is None
    assert waiting.is_hopeless


def test_engines_that_die_in_a_row_are_counted_per_place_in_the_pool() -> None:
    waiting = work(*(batch(n) for n in range(20)), num_engines=2)
    for _ in range(7):
        waiting.report_lost_engine([take(waiting)])
    assert (waiting.num_attempts, waiting.is_hopeless) == (4, False)
    waiting.report_lost_engine([take(waiting)])
    assert waiting.is_hopeless
    waiting.report_answers()
    assert (waiting.num_attempts, waiting.is_hopeless) == (0, False)


def test_batches_are_drawn_only_as_they_are_counted_or_taken() -> None:
    drawn = []

    def draw() -> Iterator[Batch]:
        for n in range(5):
            drawn.append(n)
            yield batch(n)

    waiting = Work(draw(), num_engines=2, has_answers=False)
    assert waiting.count_waiting(2) == 2
    assert drawn == [0, 1]
    assert ids(waiting.take()) == ["u0"]
    assert waiting.count_waiting(1) == 1
    assert drawn == [0, 1]
    assert [ids(waiting.take()) for _ in range(5)] == [["u1"], ["u2"], ["u3"], ["u4"], []]
    assert waiting.count_waiting(9) == 0


def test_one_deadly_example_in_each_batch_of_an_engine_does_not_end_the_run() -> None:
    waiting = work(batch(*range(20)), batch(*range(20, 40)), batch(*range(40, 60)))
    assert waiting.report_death([take(waiting) for _ in range(3)], HERE, {HERE}) is None
    for _ in range(3):
        assert waiting.report_death([take(waiting)], HERE, {HERE}) is None
        assert not waiting.is_hopeless


def test_engines_that_die_whatever_they_hold_end_the_run() -> None:
    waiting, num_deaths = work(*(batch(n) for n in range(99))), 0
    while not waiting.is_hopeless:
        waiting.report_death([take(waiting), take(waiting)], HERE, {HERE})
        num_deaths += 1
    assert num_deaths == 5
