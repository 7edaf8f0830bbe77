from dataclasses import replace
from pathlib import Path

import pytest

from msrrec.baselines import BASELINES
from msrrec.comparison.recsaver import identify_verified
from msrrec.comparison.registry import MAKERS
from msrrec.comparison.teacher import identify_teacher
from msrrec.config import ModelConfig
from msrrec.evaluation.systems import (
    BACKBONE,
    MSR_REC,
    RECSAVER,
    TEACHER,
    WITHOUT_REASONING,
    identify_baseline,
    identify_model,
)
from msrrec.models import locate_base
from msrrec.report.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_4, Line, build_tables
from msrrec.report.results import SystemRow
from tests.support.results import share, system_id, system_row


def baseline(name: str, hit: float) -> SystemRow:
    """A baseline as it is registered; sequential ones and tuned ones are trained."""
    is_sequential = BASELINES[name].place.startswith("sequential.")
    system = identify_baseline(name)
    return system_row(
        system, name, hit, is_trained=True if is_sequential else system.kind == "trained"
    )


def msrrec(variant: str, hit: float, users: str = "a", label: str = "ours") -> SystemRow:
    return system_row(system_id(label, "trained", MSR_REC, "msrrec"), variant, hit, users=users)


PLAIN = system_id("plain", "trained", WITHOUT_REASONING, "msrrec-without-reasoning")
UNTUNED = system_id("zero-shot", "base", BACKBONE, "backbone")
ROWS = [
    baseline("random", 0.17),
    baseline("sasrec-binary", 0.25),
    system_row(UNTUNED, "full", 0.2),
    baseline("tallrec-gen", 0.3),
    system_row(PLAIN, "direct", 0.35),
    msrrec("user", 0.4),
    msrrec("fused", 0.45).model_copy(update={"meteor": share(0.08)}),
]


def lines(number: int, rows: list[SystemRow] = ROWS) -> dict[str, Line]:
    table = next(table for table in build_tables(rows) if table.shape.number == number)
    return {line.name: line for line in table.lines}


def figures(number: int, rows: list[SystemRow]) -> dict[str, float]:
    """The first figure of every line that holds a row of ours."""
    cells = {name: line.ours["a"][0] for name, line in lines(number, rows).items() if line.ours}
    return {name: cell.value for name, cell in cells.items() if cell}


def test_our_rows_stand_in_the_papers_lines() -> None:
    found = lines(2)
    assert list(found)[: len(TABLE_2)] == list(TABLE_2)
    assert figures(2, ROWS) == {
        "SASRec": 0.25,
        "Llama3 (8B)": 0.2,
        "TALLRec (7B)": 0.3,
        MSR_REC: 0.45,
        "random": 0.17,
    }
    assert found["SASRec"].labels == ("sasrec-binary",)
    assert found["random"].paper is None


def test_whatever_a_system_is_called_its_row_is_that_of_its_id() -> None:
    imitations = [
        baseline("tallrec-gen-untrained", 0.01),
        baseline("tallrec-gen", 0.3),
        baseline("llara-text", 0.02),
        baseline("llara-hybrid", 0.03),
        baseline("llara", 0.31),
        baseline("sasrec", 0.26),
        baseline("sasrec-binary", 0.25),
        system_row(system_id("Caser by another name", "trained", MSR_REC, "msrrec"), "fused", 0.4),
    ]
    for rows in (imitations, imitations[::-1]):
        assert figures(2, rows) == {
            "SASRec": 0.25,
            "TALLRec (7B)": 0.3,
            "LLaRA (7B)": 0.31,
            MSR_REC: 0.4,
            "tallrec-gen-untrained": 0.01,
            "llara-text": 0.02,
            "llara-hybrid": 0.03,
            "sasrec": 0.26,
        }


def test_two_systems_that_stand_for_one_row_have_a_line_each() -> None:
    rows = [msrrec("fused", 0.4, label="first"), msrrec("fused", 0.5, label="second")]
    assert figures(2, rows) == {MSR_REC: 0.4, "second · fused": 0.5}
    assert lines(2, rows)[MSR_REC].labels == ("first · fused",)


def test_every_row_that_a_system_names_is_one_of_the_papers() -> None:
    named = [entry.paper_row for entry in BASELINES.values() if entry.paper_row]
    assert {*named, BACKBONE, TEACHER, RECSAVER, MSR_REC} == set(TABLE_2)
    assert len(named) == len({*named})
    assert WITHOUT_REASONING in TABLE_4


def test_nothing_untrained_stands_for_a_trained_row() -> None:
    for entry in BASELINES.values():
        if entry.options.get("trains") is False:
            assert entry.paper_row is None


def test_a_teacher_stands_for_the_papers_and_verification_for_none() -> None:
    assert identify_teacher("chain", "m").paper_row == TEACHER
    assert identify_teacher("plain", "deepseek").paper_row == RECSAVER
    assert identify_verified("m").paper_row is None


def test_the_ablation_has_the_variants_and_no_other_system() -> None:
    assert figures(4, ROWS) == {
        "MSR-Rec w/o reason": 0.35,
        "MSR-Rec (user)": 0.4,
        "MSR-Rec": 0.45,
    }
    assert lines(4)["MSR-Rec"].ours["a"][1] == share(0.08)
    assert lines(4)["MSR-Rec (user)"].ours["a"][1] is None


def test_a_chain_left_out_at_inference_is_not_the_model_without_reasoning() -> None:
    assert figures(4, [msrrec("direct", 0.3)]) == {}


def test_the_reasoning_table_has_only_rows_that_were_scored() -> None:
    assert [name for name, line in lines(3).items() if line.ours] == [MSR_REC]


def gain(*rows: SystemRow) -> float | None:
    return build_tables([*rows, msrrec("fused", 0.45)])[0].gains["a"]


def test_the_improvement_is_over_the_best_system_that_the_paper_compares_with() -> None:
    assert build_tables(ROWS)[0].gains == {"a": pytest.approx(0.45 / 0.3 - 1)}
    strong = system_row(system_id("t", "api", TEACHER, "teacher"), "full", 0.36)
    assert gain(baseline("caser", 0.3), strong) == pytest.approx(0.45 / 0.36 - 1)
    assert gain(baseline("caser", 0.3), baseline("sasrec", 0.4)) == pytest.approx(0.45 / 0.4 - 1)


def test_without_a_trained_system_beside_it_there_is_no_improvement() -> None:
    untrained = (baseline("random", 0.17), baseline("tallrec-gen-untrained", 0.1))
    assert gain(*untrained, system_row(UNTUNED, "full", 0.2)) is None
    assert gain(system_row(PLAIN, "direct", 0.35)) is None  # its own ablation
    assert build_tables(ROWS[:2])[0].gains == {"a": None}


def test_each_dataset_has_its_own_columns() -> None:
    table = build_tables([*ROWS, msrrec("fused", 0.5, users="b")])[0]
    assert table.datasets == {"a": "Shop a", "b": "Shop b"}
    ours = next(line for line in table.lines if line.name == MSR_REC).ours
    assert (ours["a"][0], ours["b"][0]) == (share(0.45), share(0.5))


def test_the_printed_improvements_follow_from_the_printed_figures() -> None:
    # The paper's last line: 30.97, 25.11 and 6.94 percent over its strongest baseline
    for n, printed in enumerate((30.97, 25.11, 6.94)):
        best = max(cells[n][0] for name, cells in TABLE_2.items() if name != MSR_REC)
        assert 100 * (TABLE_2[MSR_REC][n][0] / best - 1) == pytest.approx(printed, abs=0.01)


def test_the_printed_densities_follow_from_the_printed_counts() -> None:
    for row in TABLE_1:
        density = row.num_interactions / (row.num_users * row.num_items)
        assert round(density, 5) == row.density


def test_the_tables_agree_where_they_print_the_same_figure() -> None:
    for n in range(3):
        assert TABLE_4["MSR-Rec"][n][0] == TABLE_2[MSR_REC][n][0]
        assert TABLE_4["MSR-Rec"][n][1:] == TABLE_3[MSR_REC][n][::2]


def test_ids_are_the_names_under_which_systems_are_compared(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    base = locate_base(ModelConfig(name_or_path=str(tmp_path)))
    trained = replace(base, domain="Home")
    models = [
        identify_model(source, str(tmp_path), None, constrained=constrained).id
        for source, constrained in ((base, False), (base, True), (trained, False))
    ]
    teachers = [identify_teacher(prompt, "m").id for prompt in ("chain", "plain")]
    assert {*models, *teachers, identify_verified("m").id} <= set(MAKERS)


def test_systems_of_one_name_keep_a_line_each() -> None:
    rows = [msrrec("fused", hit) for hit in (0.5, 0.7, 0.9)]
    found = figures(2, rows)
    assert found == {"MSR-Rec (8B)": 0.5, "ours · fused": 0.7, "ours · fused (2)": 0.9}


def test_a_system_named_like_a_line_of_the_paper_does_not_replace_it() -> None:
    other = system_row(system_id("SASRec", "trained", None, "mine"), "mine", 0.6)
    found = figures(2, [baseline("sasrec-binary", 0.25), other])
    assert sorted(found.values()) == [0.25, 0.6]
