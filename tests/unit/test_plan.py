"""What is asked next, and when it is enough."""

import math

from msrrec.synthesis.plan import Budget, CompletionStatus, Plan, Quota, Spending


def run(
    plan: Plan, statuses: dict[tuple[str, int], CompletionStatus], room: int
) -> list[tuple[str, int]]:
    """Make the plan's calls, ``room`` at a time, oldest first; the calls in order."""
    made: list[tuple[str, int]] = []
    flying: list[tuple[str, int]] = []
    while not plan.is_finished:
        flying += plan.take(room - len(flying))
        ask = flying.pop(0)
        made.append(ask)
        plan.report(ask, statuses[ask])
    return made


def test_every_example_is_asked_once_and_only_unread_answers_again() -> None:
    statuses: dict[tuple[str, int], CompletionStatus] = {
        ("a", 0): "valid",
        ("b", 0): "unreadable",
        ("c", 0): "settled",
        ("b", 1): "unreadable",
        ("b", 2): "valid",
    }
    plan = Plan("abc", 3, None, {})
    assert run(plan, statuses, 2) == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("b", 2)]
    assert (plan.num_valid, plan.num_answers, plan.in_flight) == (2, 5, 0)


def test_attempts_bound_the_answers_of_an_example() -> None:
    statuses: dict[tuple[str, int], CompletionStatus] = {("a", n): "unreadable" for n in range(2)}
    assert run(Plan("a", 2, None, {}), statuses, 1) == [("a", 0), ("a", 1)]


def test_fewer_attempts_than_were_made_ask_nothing() -> None:
    answered: dict[str, dict[int, CompletionStatus]] = {"a": {0: "unreadable", 1: "unreadable"}}
    assert Plan("a", 1, None, answered).is_finished


def test_repeats_make_every_attempt_once_whatever_the_answers_are() -> None:
    statuses: dict[tuple[str, int], CompletionStatus] = {
        ("a", 0): "unreadable",
        ("b", 0): "settled",
        ("b", 1): "valid",
        ("b", 2): "unreadable",
        ("a", 2): "settled",
    }
    plan = Plan("ab", 3, None, {"a": {1: "valid"}}, repeats=True)
    assert plan.num_queued == 5
    assert sorted(run(plan, statuses, 2)) == sorted(statuses)
    done: dict[str, dict[int, CompletionStatus]] = {
        name: {0: "unreadable", 1: "settled"} for name in "ab"
    }
    assert Plan("ab", 2, None, done, repeats=True).is_finished


def test_answers_at_hand_are_not_asked_again() -> None:
    answered: dict[str, dict[int, CompletionStatus]] = {
        "a": {0: "valid"},
        "b": {0: "unreadable"},
        "d": {0: "unreadable", 1: "unreadable"},
        "e": {0: "settled"},
    }
    plan = Plan("abcde", 2, None, answered)
    assert plan.take(9) == [("c", 0), ("b", 1)]  # first attempts first
    assert (plan.num_valid, plan.num_answers) == (1, 5)


def test_a_reached_threshold_needs_no_call() -> None:
    assert Plan("ab", 1, 1, {"a": {0: "valid"}}).is_finished
    assert not Plan("ab", 1, 2, {"a": {0: "valid"}}).is_finished


def test_near_the_threshold_no_more_is_launched_than_likely_needed() -> None:
    plan = Plan([str(n) for n in range(100)], 1, 10, {})
    for ask in plan.take(8):
        plan.report(ask, "valid")
    # 8 of 8 valid: the rate is taken as (8 + 1) / (8 + 1), and 10 - 8 calls will do
    assert len(plan.take(50)) == 2
    assert plan.take(50) == []


def test_a_low_acceptance_rate_launches_more() -> None:
    plan = Plan([str(n) for n in range(100)], 1, 2, {})
    asks = plan.take(2)  # 2 wanted at a rate of (0 + 1) / (0 + 1)
    assert len(asks) == 2
    plan.report(asks[0], "valid")
    plan.report(asks[1], "settled")
    # 1 more at a rate of (1 + 1) / (2 + 1): 1.5, so 2
    assert len(plan.take(50)) == 2


def test_the_threshold_ends_the_run_with_calls_still_in_flight() -> None:
    plan = Plan("abcdef", 1, 1, {"a": {0: "settled"}, "b": {0: "settled"}})
    asks = plan.take(9)
    plan.report(asks[0], "valid")
    assert plan.is_finished
    assert plan.in_flight == len(asks) - 1 > 0


def test_failed_calls_are_counted_and_not_repeated() -> None:
    plan = Plan("ab", 1, None, {})
    a, b = plan.take(2)
    plan.report(a, None)
    assert (plan.num_failed, plan.failed_in_a_row) == (1, 1)
    plan.report(b, "valid")
    assert (plan.num_failed, plan.failed_in_a_row, plan.num_answers) == (1, 0, 1)
    assert plan.is_finished


def test_a_dead_actor_gives_its_calls_back() -> None:
    plan = Plan("ab", 1, None, {})
    (ask,) = plan.take(1)
    plan.give_back(ask)
    assert plan.in_flight == 0
    assert plan.take(2) == [("a", 0), ("b", 0)]


def test_calls_overdue_make_room_for_others_near_the_threshold() -> None:
    plan = Plan("abcdef", 1, 1, {})
    assert plan.take(9) == [("a", 0)]
    assert plan.take(9) == []
    assert plan.take(9, overdue=1) == [("b", 0)]


def test_a_group_with_enough_paths_is_asked_no_more_and_not_waited_for() -> None:
    # users: a, b, c are one's; d is another's
    quota = Quota("tau_per_user", 1, dict(zip("abcd", "1112", strict=True)))
    plan = Plan("abcd", 1, None, {}, [quota])
    assert plan.take(9) == [("a", 0), ("d", 0)]  # one of each group is likely enough
    plan.report(("a", 0), "settled")
    # (0 + 1) / (1 + 1) accepted so far: two of the first group, for one path
    assert plan.take(9) == [("b", 0), ("c", 0)]
    plan.report(("b", 0), "valid")
    plan.report(("d", 0), "valid")
    assert plan.is_finished
    assert plan.in_flight == 1


def test_a_closed_group_leaves_the_rest_to_be_asked() -> None:
    quota = Quota("tau_per_user", 1, dict(zip("abcd", "1112", strict=True)))
    statuses: dict[tuple[str, int], CompletionStatus] = {(e, 0): "valid" for e in "abcd"}
    assert run(Plan("abcd", 1, None, {}, [quota]), statuses, 1) == [("a", 0), ("d", 0)]


def test_two_quotas_hold_at_once() -> None:
    users = Quota("tau_per_user", 2, dict(zip("abcd", "1122", strict=True)))
    kinds = Quota("tau_per_category", 1, dict(zip("abcd", "xxxy", strict=True)))
    statuses: dict[tuple[str, int], CompletionStatus] = {(e, 0): "valid" for e in "abcd"}
    plan = Plan("abcd", 1, None, {}, [users, kinds])
    assert run(plan, statuses, 3) == [("a", 0), ("d", 0)]
    assert plan.needed() == {"tau_per_user": 0, "tau_per_category": 0}


def test_a_cap_is_never_passed_whatever_the_calls_in_flight_cost() -> None:
    caps, worst = Spending(math.inf, 100, math.inf), Spending(1, 30, 1)
    plan = Plan("abcdef", 1, None, {}, (), Budget(caps, Spending(2, 10, 0), worst))
    assert len(plan.take(9)) == 3  # (100 - 10) / 30
    plan.report(("a", 0), "settled", Spending(1, 10, 0))
    assert plan.take(9) == []  # 80 left, two in flight may take 60
    plan.report(("b", 0), "settled", Spending(1, 10, 0))
    assert len(plan.take(9)) == 1  # 70 left, one in flight
    plan.report(("c", 0), "settled", Spending(1, 30, 0))
    plan.report(("d", 0), "settled", Spending(1, 30, 0))
    assert (plan.budget.spent.tokens, plan.is_finished, plan.stopped_by) == (90, True, "tokens")


def test_a_cap_on_calls_is_met_exactly() -> None:
    caps = Spending(3, math.inf, math.inf)
    plan = Plan("abcdef", 1, None, {}, (), Budget(caps, Spending(), Spending(1, 9, 9)))
    statuses: dict[tuple[str, int], CompletionStatus] = {(e, 0): "settled" for e in "abcdef"}
    made: list[tuple[str, int]] = []
    while not plan.is_finished:
        for ask in plan.take(2):
            plan.report(ask, statuses[ask], Spending(1, 9, 9))
            made.append(ask)
    assert made == [("a", 0), ("b", 0), ("c", 0)]
    assert plan.stopped_by == "calls"
