"""The frozen candidates as files that lm-eval reads; test_lm_eval_real.py runs them in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from msrrec.config import EvaluateConfig, PromptConfig
from msrrec.errors import ConfigError
from msrrec.evaluation.lm_eval import export_tasks
from msrrec.reasoning.prompts import render_prompt
from tests.support.hostile import write_hostile
from tests.support.score import write_four_users

MARKS = "[reasoning_start]\n[reasoning_end]\n"
TITLE = PromptConfig(answer_format="title")


def exported(folder: Path, *names: str) -> list[dict[str, Any]]:
    tasks = [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in names]
    (file,) = {task["dataset_kwargs"]["data_files"]["test"] for task in tasks}
    return [*tasks, *map(json.loads, Path(file).read_text().splitlines())]


def test_every_user_is_a_row_with_the_frozen_candidates_in_their_order(tmp_path: Path) -> None:
    dataset = write_four_users(str(tmp_path / "dataset"))
    summary = export_tasks(dataset.path, str(tmp_path / "tasks"), EvaluateConfig(num_users=3))
    assert summary["tasks"] == [f"msrrec_home_{n}" for n in ("history", "direct", "direct_chat")]
    assert summary["num_users"] == 3
    _, *rows = exported(tmp_path / "tasks", "msrrec_home_history")
    assert [row["example_id"] for row in rows] == ["e0", "e1", "e2"]
    assert [row["answers"] for row in rows] == [["(1) a", "(2) b"]] * 3
    assert [row["target"] for row in rows] == [0, 0, 0]


def test_a_task_reads_prompt_answers_and_target_from_columns_of_the_row(tmp_path: Path) -> None:
    dataset = write_four_users(str(tmp_path / "dataset"))
    export_tasks(dataset.path, str(tmp_path / "tasks"), EvaluateConfig(), TITLE)
    names = [f"msrrec_home_{name}" for name in ("history", "direct", "direct_chat")]
    history, direct, chat, row, *_ = exported(tmp_path / "tasks", *names)
    for task in (history, direct, chat):
        assert {task["doc_to_choice"], task["doc_to_target"]} <= set(row)
        assert task["output_type"] == "multiple_choice"
        assert task["num_fewshot"] == 0  # an example shown would be another test user
    assert row["history"] == "Purchases of one customer at Home, oldest first:\nh"
    assert row["lines"] == ["a\n", "b\n"]
    assert row["direct"] == render_prompt("direct", "Home", ["h"], ["a", "b"], TITLE)
    assert [task["doc_to_text"] for task in (history, direct, chat)] == [
        *("history", "{{direct[:-1]}}", "direct")
    ]
    assert direct["target_delimiter"] == row["direct"][-1] + "\n" + MARKS
    assert chat["gen_prefix"] + chat["target_delimiter"] == MARKS
    assert row["answers"] == [" a\n", " b\n"]


def test_a_title_with_the_marks_of_a_template_stays_one_line_of_the_row(tmp_path: Path) -> None:
    dataset = write_hostile(str(tmp_path / "dataset"), 40)
    summary = export_tasks(dataset.path, str(tmp_path / "tasks"), EvaluateConfig())
    task, *rows = exported(tmp_path / "tasks", summary["tasks"][0])
    assert "{" not in (tmp_path / "tasks" / "msrrec_home_history.yaml").read_text()
    assert task["doc_to_text"] == "history"
    lines = {line for row in rows for line in row["lines"]}
    assert {"{{ 7*7 }} Kettle\n", "Leading Spaces\n", "Two Lines\n"} <= lines
    assert all(line.count("\n") == 1 for line in lines)
    assert {row["history"].count("\n") for row in rows} == {3}


def test_tasks_are_written_to_this_machine_alone(tmp_path: Path) -> None:
    dataset = write_four_users(str(tmp_path / "dataset"))
    with pytest.raises(ConfigError, match="give a local folder"):
        export_tasks(dataset.path, "s3://bucket/tasks", EvaluateConfig())
