from typing import Any

import pytest

from msrrec.report.paper import MSR_REC, TABLE_2, TABLE_3, TABLE_4, build_tables


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def row(system: str, kind: str, variant: str, hit: float, key: str = "a") -> dict[str, Any]:
    return {
        "system": system,
        "kind": kind,
        "variant": variant,
        "label": f"{system} · {variant}",
        "key": key,
        "domain": f"Shop {key}",
        "hit_ratio": share(hit),
        "valid_ratio": share(1.0),
    }


ROWS = [
    row("random", "baseline", "random", 0.17),
    row("sasrec", "baseline", "sasrec", 0.25),
    row("backbone", "base", "full", 0.2),
    row("tallrec-gen", "trained", "direct", 0.3),
    row("plain", "trained", "direct", 0.35),
    row("ours", "trained", "user", 0.4),
    row("ours", "trained", "fused", 0.45) | {"meteor": share(0.08)},
]


def lines(number: int, rows: list[dict[str, Any]] = ROWS) -> dict[str, dict[str, Any]]:
    table = next(table for table in build_tables(rows) if table["number"] == number)
    return {line["name"]: line for line in table["lines"]}


def test_our_rows_stand_in_the_papers_lines() -> None:
    found = lines(2)
    assert list(found)[: len(TABLE_2)] == list(TABLE_2)
    ours = {n: line["ours"]["a"][0]["value"] for n, line in found.items() if line["is_ours"]}
    assert ours == {
        "SASRec": 0.25,
        "Llama3 (8B)": 0.2,
        "TALLRec (7B)": 0.3,
        MSR_REC: 0.45,
        "random · random": 0.17,
    }
    assert found["SASRec"]["labels"] == ["sasrec · sasrec"]
    assert found["random · random"]["paper"] is None


def test_the_ablation_has_the_variants_and_no_other_system() -> None:
    found = {n: line["ours"]["a"] for n, line in lines(4).items() if line["is_ours"]}
    assert {name: cells[0]["value"] for name, cells in found.items()} == {
        "MSR-Rec w/o reason": 0.35,
        "MSR-Rec (user)": 0.4,
        "MSR-Rec": 0.45,
    }
    assert found["MSR-Rec"][1]["value"] == 0.08
    assert found["MSR-Rec (user)"][1] is None


def test_the_reasoning_table_has_only_rows_that_were_scored() -> None:
    assert [name for name, line in lines(3).items() if line["is_ours"]] == [MSR_REC]


def test_the_improvement_is_over_the_best_other_system() -> None:
    table = build_tables(ROWS)[0]
    assert table["gains"] == {"a": pytest.approx(0.45 / 0.3 - 1)}
    assert build_tables(ROWS[:2])[0]["gains"] == {"a": None}


def test_each_dataset_has_its_own_columns() -> None:
    table = build_tables([*ROWS, row("ours", "trained", "fused", 0.5, "b")])[0]
    assert table["datasets"] == {"a": "Shop a", "b": "Shop b"}
    ours = next(line for line in table["lines"] if line["name"] == MSR_REC)["ours"]
    assert (ours["a"][0]["value"], ours["b"][0]["value"]) == (0.45, 0.5)


def test_the_printed_improvements_follow_from_the_printed_figures() -> None:
    # The paper's last line: 30.97, 25.11 and 6.94 percent over its strongest baseline
    for n, printed in enumerate((30.97, 25.11, 6.94)):
        best = max(cells[n][0] for name, cells in TABLE_2.items() if name != MSR_REC)
        assert 100 * (TABLE_2[MSR_REC][n][0] / best - 1) == pytest.approx(printed, abs=0.01)


def test_the_tables_agree_where_they_print_the_same_figure() -> None:
    for n in range(3):
        assert TABLE_4["MSR-Rec"][n][0] == TABLE_2[MSR_REC][n][0]
        assert TABLE_4["MSR-Rec"][n][1:] == TABLE_3[MSR_REC][n][::2]
