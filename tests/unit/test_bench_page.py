"""The page of benchmarks is what its template and the kept results give."""

import json
import sys
from pathlib import Path

import pytest

from bench import page
from bench.record import RESULTS, Aim, Result, Row, describe, keep
from bench.suite import BENCHMARKS


def test_the_committed_pages_are_written_from_the_results() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run python -m bench.page"
    readme = page.README.read_text(encoding="utf-8")
    assert readme == page.render_readme(readme), "run python -m bench.page"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_every_result_has_a_benchmark_and_says_how_it_was_made(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem in BENCHMARKS
    assert found["command"].startswith(f"python -m {BENCHMARKS[path.stem][0]}")
    assert found["machine"]["processor"]
    assert found["versions"]["python"]
    assert all(package in found["versions"] for package in found["packages"])
    for row in found["rows"]:
        assert len(row["ours"]) == found["rounds"]
        assert len(row["peer"]) in (0, found["rounds"])


def test_ratio_and_spread_are_those_of_the_rounds() -> None:
    row = Row("it", [2.0, 3.0, 8.0], [1.0, 2.0, 2.0], "peer", "s", aim=Aim("at most", 2))
    told = row.to_json()
    assert (told["ratio"], told["spread"], told["met"]) == (2.0, [1.5, 4.0], True)
    faster = Row("it", [1.0], [3.0], "peer", "s", ratio_of="peer / ours", aim=Aim("at least", 3.1))
    assert faster.to_json()["ratio"] == 3.0
    assert faster.to_json()["met"] is False


def test_a_row_without_a_peer_is_held_against_its_bound() -> None:
    told = Row("it", [4.0, 6.0], (), "", "s", aim=Aim("at most", 5)).to_json()
    assert (told["ratio"], told["met"]) == (5.0, True)


def test_a_result_holds_its_command_without_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = str(page.ROOT / "bench" / "prepare.py")
    file = tmp_path / "prepare.json"
    monkeypatch.setattr(sys, "argv", [script, "--rounds", "2", "--result", str(file)])
    result = Result([Row("it", [1.0, 1.0], (), "", "s")], 2, ("torch", "not-installed"))
    assert describe(result)["command"] == "python -m bench.prepare --rounds 2"
    keep(None, result)
    keep(file, result)
    kept = json.loads(file.read_text())
    assert kept["versions"]["torch"]
    assert kept["packages"] == ["torch"]  # as the page tells the version of each
