"""The table of inputs is complete."""

from bench.inputs import CASES, outcome


def test_every_row_has_one_case_of_its_own() -> None:
    assert [case.row for case in CASES] == list(range(1, 32))
    assert len({case.kind for case in CASES}) == 31


def test_the_cases_of_models_and_purchases_go_right() -> None:
    tried = {case.row: outcome(case) for case in CASES if case.row in (1, 4, 9, 21, 23)}
    assert set(tried.values()) == {"right"}, tried
