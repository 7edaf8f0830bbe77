"""Which rationale is kept, and what its verification shows."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msrrec import schema, storage
from msrrec.comparison import recsaver
from msrrec.comparison.recsaver import choose, evaluate_verified, read_sample
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.results import ApiFacts, EvaluationResult
from msrrec.synthesis.journal import JournalEntry, Sampling
from msrrec.synthesis.requests import TeacherRequest
from msrrec.titles import REASONING_END
from tests.support.evaluation import NUM_USERS, write_evaluated_users


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


def answers_of(choices: dict[str, list[tuple[str, str]]], back: str) -> Any:
    """A teacher: to each example's samples a rationale and a choice each; to checks ``back``."""
    asked: list[dict[str, str]] = []

    def answer(name: str, attempt: int, text: str) -> tuple[tuple[str, int], JournalEntry]:
        sampling = Sampling("some-model", 0.6, 4096)
        made = JournalEntry(
            name, attempt, "", sampling, text, None, "stop", {}, "some-model", 0.1, 1, 0
        )
        return (name, attempt), made

    def collect(
        questions: Any, dataset: Any, out: str, config: RunConfig, keys: Any, attempts: int = 1
    ) -> dict[tuple[str, int], JournalEntry]:
        del dataset, keys
        asked.append({name: question.prompt for name, question in questions.items()})
        assert (config.synthesis.prompt, out) == ("plain", "answers")
        assert attempts == (3 if len(asked) == 1 else 1)
        if len(asked) == 1:
            return dict(
                answer(name, n, f"[reasoning_start]\n{rationale}\n[reasoning_end]\n{choice}")
                for name, samples in choices.items()
                for n, (rationale, choice) in enumerate(samples)
            )
        return dict(answer(name, 0, back) for name in questions)

    return asked, collect


def test_rationales_are_masked_and_each_that_says_something_is_verified_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluated_users(tmp_path / "dataset")
    dataset = Dataset.load(str(tmp_path / "dataset"))
    first, second, third, *_ = dataset.examples("test")
    titles = dataset.titles(first.candidates)
    asked, collect = answers_of(
        {
            first.example_id: [
                (f"For {titles[n].upper()} (2).", title) for n, title in enumerate(titles)
            ],
            second.example_id: [("Because.", "Neither.")],
            third.example_id: [(f"({titles[0]})", titles[0]), ("", titles[0])],
        },
        titles[1],
    )
    monkeypatch.setattr(recsaver, "collect", collect)
    out = str(tmp_path / "out")
    evaluate_verified(dataset, out, "answers", RunConfig(), {})
    ((name, prompt),) = asked[1].items()  # three rationales that are one when they are masked
    assert name.startswith(f"{first.example_id}, rationale ")
    assert prompt.splitlines()[2] == '"for [item] [item]"'
    assert not any(title in prompt for title in dataset.titles(first.history))
    found = EvaluationResult.load(out)
    assert found.api == ApiFacts(
        calls=7, samples=5, verified=3, recovered=1, unanswered=found.num_users - 3
    )
    rows = pq.read_table(storage.join(out, "predictions/full.parquet")).to_pylist()
    chosen = {row["example_id"]: row["item_id"] for row in rows}
    assert chosen[first.example_id] == first.candidates[1]  # the second choice, which held
    assert chosen[second.example_id] is None
    assert chosen[third.example_id] is not None


@pytest.mark.parametrize(
    ("text", "thoughts", "rationale"),
    [
        (f"<think>{REASONING_END} Blue</think>They like red.{REASONING_END}\nRed", None, "red"),
        ("Red", "They like red things.", "red things"),  # an answer alone, thoughts beside it
        ("Red", None, None),
        ("They like none.", "They like none.", None),  # no candidate is named
    ],
)
def test_the_rationale_is_what_was_written_or_else_thought(
    tmp_path: Path, text: str, thoughts: str | None, rationale: str | None
) -> None:
    dataset = write_evaluated_users(tmp_path / "dataset")
    sampling = Sampling("some-model", 0.6, 4096)
    record = JournalEntry("e", 0, "", sampling, text, thoughts, "stop", {}, "some-model", 0.1, 1, 0)
    question = TeacherRequest("e", "", "", ("Red Lamp", "Red"), 0)
    sample = read_sample(dataset, question, record, RunConfig())
    assert (sample is None) == (text == "They like none.")
    check = sample.check if sample else None
    assert (check is None) == (rationale is None)
    if check:
        line = check.prompt.splitlines()[2]
        assert "they like [item]" in line
        assert "blue" not in line


def test_what_was_bought_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_evaluated_users(tmp_path / "dataset")
    test_split = str(tmp_path / "dataset" / "test.parquet")
    chosen = []
    for slot in range(3):
        rows = pq.read_table(test_split).to_pylist()
        rows = [{**row, "target": row["candidates"][slot]} for row in rows]
        storage.write_table(test_split, pa.Table.from_pylist(rows, schema=schema.EXAMPLES))
        dataset = Dataset.load(str(tmp_path / "dataset"))
        samples = {
            e.example_id: [(f"Number {n}, or {n}0.", title) for n, title in enumerate(titles)]
            for e in dataset.examples("test")
            for titles in [dataset.titles(e.candidates)]
        }
        _, collect = answers_of(samples, "Bad")
        monkeypatch.setattr(recsaver, "collect", collect)
        out = str(tmp_path / f"out-{slot}")
        evaluate_verified(dataset, out, "answers", RunConfig(), {})
        found = pq.read_table(storage.join(out, "predictions/full.parquet"))
        chosen.append(found["item_id"].to_pylist())
    assert chosen[0] == chosen[1] == chosen[2] == ["bad"] * NUM_USERS


def test_other_candidates_than_the_datasets_are_refused(tmp_path: Path) -> None:
    write_evaluated_users(tmp_path / "dataset")
    dataset = Dataset.load(str(tmp_path / "dataset"))
    for override in ("evaluate.permutation=1", "evaluate.negatives=uniform"):
        with pytest.raises(ConfigError, match="expected 0 and frozen"):
            evaluate_verified(dataset, "", "", load_config(overrides=[override]), {})
