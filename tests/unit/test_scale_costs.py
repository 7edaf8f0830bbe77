"""Costs for many users are what a small run used, times users, calls and prices."""

import json
from pathlib import Path

import pytest

from bench.scale_costs import Given, Usage, build_parser, find_costs, read_usage, write_table

USAGE = Usage(
    dataset_bytes=100,
    reasoning_bytes=1000,
    prediction_bytes=300,
    prompt_tokens=150,
    completion_tokens=50,
    train_tokens=360,
    output_tokens=72,
)
GIVEN = Given(
    calls=1000,
    teacher_speed=1000,
    epochs=2,
    train_speed=100,
    write_speed=200,
    prompt_price=1.0,
    completion_price=4.0,
)


def test_costs_follow_users_and_calls() -> None:
    costs = find_costs(USAGE, GIVEN, users=1_000_000)
    assert costs.teacher_tokens == 200_000  # (150 + 50) x 1,000
    assert costs.teacher_price == pytest.approx(0.15 + 0.2)  # 150k at 1 and 50k at 4 a million
    assert costs.teacher_hours == pytest.approx(200 / 60)  # 200 minutes
    assert costs.train_hours == 2.0  # 360 x 1,000 x 2 / 100 = 7,200 s
    assert costs.recommend_hours == 100.0  # 72 x 1,000,000 / 200 = 360,000 s
    assert costs.stored_bytes == 401_000_000  # 400 a user, 1,000 a call


def test_more_users_need_no_more_teaching_or_training() -> None:
    few, many = (find_costs(USAGE, GIVEN, users) for users in (10, 1_000_000_000))
    assert (few.teacher_tokens, few.train_hours) == (many.teacher_tokens, many.train_hours)
    assert many.recommend_hours == pytest.approx(few.recommend_hours * 1e8)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_usage_is_read_from_a_finished_pipeline(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset" / "manifest.json", {"num_users": 4})
    (tmp_path / "dataset" / "train.parquet").write_bytes(bytes(400 - len('{"num_users": 4}')))
    summary = {"calls": 10, "prompt_tokens": 1500, "completion_tokens": 500}
    write_json(tmp_path / "reasoning" / "summary.json", summary)
    (tmp_path / "reasoning" / "journal").mkdir()
    left = 10_000 - len(json.dumps(summary))
    (tmp_path / "reasoning" / "journal" / "1.jsonl").write_bytes(bytes(left))
    write_json(tmp_path / "model" / "run.json", {"summary": {"num_tokens": 3600}})
    figures = {"num_users": 2, "generated_tokens": {"fused": 72.0}}
    write_json(tmp_path / "evaluation" / "report" / "metrics.json", figures)
    (tmp_path / "evaluation" / "predictions").mkdir()
    (tmp_path / "evaluation" / "predictions" / "fused.parquet").write_bytes(bytes(600))
    assert read_usage(tmp_path) == USAGE


def test_the_table_has_a_column_for_each_number_of_users() -> None:
    lines = list(write_table(USAGE, GIVEN, (1000, 1_000_000)))
    assert lines[0] == "| users | 1,000 | 1,000,000 |"
    assert "| recommend for everybody, GPU hours | 0.1 | 100.0 |" in lines


def test_speeds_and_prices_must_be_given() -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["runs/x", "--calls", "10"])
