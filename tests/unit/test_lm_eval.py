import json
from pathlib import Path

import yaml

from msrrec.config import EvaluateConfig
from msrrec.evaluation.lm_eval import export_tasks
from tests.support.score import write_four_users


def test_every_example_is_a_row_with_its_frozen_candidates(tmp_path: Path) -> None:
    dataset = write_four_users(str(tmp_path / "dataset"))
    summary = export_tasks(dataset.path, str(tmp_path / "tasks"), EvaluateConfig(num_users=3))
    assert summary["tasks"] == ["msrrec_home_history", "msrrec_home_list"]
    rows = [
        json.loads(line) for line in (tmp_path / "tasks" / "test.jsonl").read_text().splitlines()
    ]
    assert [row["example_id"] for row in rows] == ["e0", "e1", "e2"]


def test_a_task_reads_its_prompt_choices_and_target_from_the_row(tmp_path: Path) -> None:
    dataset = write_four_users(str(tmp_path / "dataset"))
    export_tasks(dataset.path, str(tmp_path / "tasks"), EvaluateConfig())
    lines = (tmp_path / "tasks" / "test.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    for name in ("history", "list"):
        task = yaml.safe_load((tmp_path / "tasks" / f"msrrec_home_{name}.yaml").read_text())
        assert task["doc_to_text"] == name
        assert row[task["doc_to_choice"]] == ["a", "b"]
        assert row[task["doc_to_target"]] == 0
        assert Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines() == lines
        assert task["output_type"] == "multiple_choice"
    assert row["history"] == "Purchases of one customer at Home, oldest first:\nh\n"
    assert row["list"].endswith("Candidates:\n(1) a\n(2) b\nThe next purchase is:")
