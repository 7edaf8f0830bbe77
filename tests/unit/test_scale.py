"""The measurements of memory by number of users run, and what they print is right."""

import json
from pathlib import Path

import pytest

from bench.scale import Measured, write_json
from bench.scale_stages import STAGES


def test_growth_is_told_against_the_first_number_of_users() -> None:
    first = Measured("report", 1_000, 200.0, 1.0, 2, 0.1)
    more = Measured("report", 3_000, 201.0, 2.6, 2, 12.6)
    assert first.row(first) == "| report | 1,000 | 200 |  | 1 | 2 | 0 |"
    assert more.row(first) == "| report | 3,000 | 201 | 524 | 3 | 2 | 13 |"  # 2^20 / 2,000


def test_measurements_are_written_as_json(tmp_path: Path) -> None:
    found = [Measured("report", 1_000, 200.0, 1.0, 2, 0.1)]
    write_json(tmp_path / "scale.json", found)
    (row,) = json.loads((tmp_path / "scale.json").read_text())
    assert (row["stage"], row["num_users"], row["peak_mib"]) == ("report", 1_000, 200.0)


@pytest.mark.parametrize("stage", ["negatives", "faithfulness", "study"])
def test_stages_that_need_no_cluster_run_on_generated_users(stage: str, tmp_path: Path) -> None:
    STAGES[stage].make(tmp_path, 40)
    STAGES[stage].run(tmp_path)
    written = {path.name for path in tmp_path.rglob("*.json")}
    assert written & {"metrics.json", "faithfulness.json", "study.json"}
