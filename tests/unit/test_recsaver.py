"""Which rationale is kept, and what its verification shows."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msrrec import storage
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation import recsaver
from msrrec.evaluation.evaluate import METRICS
from msrrec.evaluation.recsaver import choose, evaluate_verified
from msrrec.synthesis.journal import Record, Sampling
from tests.unit.test_report import write_dataset


@pytest.mark.parametrize(
    ("samples", "kept"),
    [
        ([(2, 2)], 0),
        ([(2, None)], 0),  # nothing held, and something must be answered
        ([(2, 1), (4, 4)], 1),  # what holds goes before what came first
        ([(2, 2), (4, 4), (4, 1)], 1),  # both held once, 4 was chosen more often
        ([(2, 1), (2, 2), (4, 4)], 1),  # of one choice, the sample that held
        ([(2, 4), (4, 2), (4, 2)], 1),  # another's choice brought back does not count
        ([(2, 2), (4, 4), (4, 4)], 1),
    ],
)
def test_the_choice_that_is_recovered_most_often_is_kept(
    samples: list[tuple[int, int | None]], kept: int
) -> None:
    assert choose(samples) == kept


def test_rationales_are_sampled_masked_and_verified_and_the_label_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "dataset")
    dataset = Dataset.load(str(tmp_path / "dataset"))
    first, second, *_ = dataset.examples("test")
    titles = dataset.titles(first.candidates)
    asked: list[dict[str, Any]] = []

    def answer(name: str, attempt: int, text: str) -> tuple[tuple[str, int], Record]:
        sampling = Sampling("some-model", 0.6, 4096)
        made = Record(name, attempt, "", sampling, text, None, "stop", {}, "some-model", 0.1, 1, 0)
        return (name, attempt), made

    def collect(
        questions: Any, dataset: Any, out: str, config: RunConfig, keys: Any, attempts: int = 1
    ) -> dict[tuple[str, int], Record]:
        del dataset, keys
        asked.append({name: question.prompt for name, question in questions.items()})
        assert config.synthesis.prompt == "plain"
        assert (attempts, out) == ((3, "answers") if len(asked) == 1 else (1, "answers"))
        if len(asked) == 1:
            texts = (
                f"[reasoning_start]\nFor {titles[n].upper()} (2).\n[reasoning_end]\n{titles[n]}"
                for n in (0, 1)
            )
            samples = [answer(first.example_id, n, text) for n, text in enumerate(texts)]
            return dict([*samples, answer(second.example_id, 0, "Neither.")])
        return dict(answer(name, 0, f"(2) {titles[1]}") for name in questions)

    monkeypatch.setattr(recsaver, "collect", collect)
    out = str(tmp_path / "out")
    evaluate_verified(dataset, out, "answers", RunConfig(), {})
    assert list(asked[1]) == [f"{first.example_id}, sample {n}" for n in (0, 1)]
    for prompt in asked[1].values():
        rationale = prompt.splitlines()[2]
        assert re.fullmatch(r'"for \[item\]>? \[item\]\."', rationale)  # a bracket ends the title
        assert not any(title in prompt for title in dataset.titles(first.history))
    metrics = storage.read_json(storage.join(out, METRICS))
    assert metrics["api"] == {
        "calls": 5,
        "samples": 2,
        "recovered": 1,
        "unanswered": metrics["num_users"] - 1,
    }
    rows = pq.read_table(storage.join(out, "predictions/full.parquet")).to_pylist()
    (row,) = [row for row in rows if row["example_id"] == first.example_id]
    assert row["item_id"] == first.candidates[1]  # the second choice, which held


def test_other_candidates_than_the_datasets_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    dataset = Dataset.load(str(tmp_path / "dataset"))
    for override in ("evaluate.permutation=1", "evaluate.negatives=uniform"):
        with pytest.raises(ConfigError, match="expected 0 and frozen"):
            evaluate_verified(dataset, "", "", load_config(overrides=[override]), {})
