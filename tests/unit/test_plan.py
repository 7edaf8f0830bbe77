"""What is asked next, and when it is enough."""

from msrrec.synthesis.plan import Plan


def run(plan: Plan, valid: dict[tuple[str, int], bool], room: int) -> list[tuple[str, int]]:
    """Make the plan's calls, ``room`` at a time, oldest first; the calls in order."""
    made: list[tuple[str, int]] = []
    flying: list[tuple[str, int]] = []
    while not plan.is_finished:
        flying += plan.take(room - len(flying))
        ask = flying.pop(0)
        made.append(ask)
        plan.report(ask, valid[ask])
    return made


def test_every_example_is_asked_once_and_only_failed_ones_again() -> None:
    valid = {("a", 0): True, ("b", 0): False, ("c", 0): True, ("b", 1): False, ("b", 2): True}
    plan = Plan("abc", 3, None, {})
    assert run(plan, valid, 2) == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("b", 2)]
    assert (plan.num_valid, plan.num_answers, plan.in_flight) == (3, 5, 0)


def test_attempts_bound_the_answers_of_an_example() -> None:
    valid = {("a", n): False for n in range(2)}
    assert run(Plan("a", 2, None, {}), valid, 1) == [("a", 0), ("a", 1)]


def test_answers_at_hand_are_not_asked_again() -> None:
    answered = {"a": {0: True}, "b": {0: False}, "d": {0: False, 1: False}}
    plan = Plan("abcd", 2, None, answered)
    assert plan.take(9) == [("c", 0), ("b", 1)]  # first attempts first
    assert (plan.num_valid, plan.num_answers) == (1, 4)


def test_a_reached_threshold_needs_no_call() -> None:
    assert Plan("ab", 1, 1, {"a": {0: True}}).is_finished
    assert not Plan("ab", 1, 2, {"a": {0: True}}).is_finished


def test_near_the_threshold_no_more_is_launched_than_likely_needed() -> None:
    plan = Plan([str(n) for n in range(100)], 1, 10, {})
    for ask in plan.take(8):
        plan.report(ask, True)
    # 8 of 8 valid: the rate is taken as (8 + 1) / (8 + 1), and 10 - 8 calls will do
    assert len(plan.take(50)) == 2
    assert plan.take(50) == []


def test_a_low_acceptance_rate_launches_more() -> None:
    plan = Plan([str(n) for n in range(100)], 1, 2, {})
    asks = plan.take(2)  # 2 wanted at a rate of (0 + 1) / (0 + 1)
    assert len(asks) == 2
    plan.report(asks[0], True)
    plan.report(asks[1], False)
    # 1 more at a rate of (1 + 1) / (2 + 1): 1.5, so 2
    assert len(plan.take(50)) == 2


def test_the_threshold_ends_the_run_with_calls_still_in_flight() -> None:
    plan = Plan("abcdef", 1, 1, {"a": {0: False}, "b": {0: False}})
    asks = plan.take(9)
    plan.report(asks[0], True)
    assert plan.is_finished
    assert plan.in_flight == len(asks) - 1 > 0


def test_failed_calls_are_counted_and_not_repeated() -> None:
    plan = Plan("ab", 1, None, {})
    a, b = plan.take(2)
    plan.report(a, None)
    assert (plan.num_failed, plan.failed_in_a_row) == (1, 1)
    plan.report(b, True)
    assert (plan.num_failed, plan.failed_in_a_row, plan.num_answers) == (1, 0, 1)
    assert plan.is_finished


def test_a_dead_actor_gives_its_calls_back() -> None:
    plan = Plan("ab", 1, None, {})
    (ask,) = plan.take(1)
    plan.give_back(ask)
    assert plan.in_flight == 0
    assert plan.take(2) == [("a", 0), ("b", 0)]
