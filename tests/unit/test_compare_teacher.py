"""The teacher's and RecSAVER's rows: asked once, and read as every other row is."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from msrrec.baselines.interface import WrittenChoice
from msrrec.comparison import teacher
from msrrec.comparison.compare import compare
from msrrec.comparison.registry import Run, find_systems
from msrrec.comparison.teacher import read_choice
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation import evaluate as evaluation
from msrrec.reasoning.prompts import STEPS
from msrrec.reasoning.reading import read_strict
from msrrec.schema import Example
from msrrec.synthesis.journal import JournalEntry, Sampling
from tests.support.evaluation import NASTY, NUM_USERS, write_evaluated_users


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_evaluated_users(tmp_path / "dataset")
    return tmp_path


def record(example_id: str, text: str) -> JournalEntry:
    sampling = Sampling("some-model", 0.6, 4096)
    usage = {"completion_tokens": 7}
    return JournalEntry(
        example_id, 0, "", sampling, text, None, "stop", usage, "some-model", 0.1, 1, 0
    )


def test_the_teacher_is_asked_once_about_the_evaluated_split_and_read_as_it_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunConfig] = []

    def synthesize(dataset: Dataset, out: str, config: RunConfig, keys: Any) -> dict[str, Any]:
        asked.append(config)
        return {"calls": 3}

    def answers(dataset: Dataset, out: str, config: RunConfig) -> dict[str, JournalEntry]:
        titles = {e.example_id: dataset.titles(e.candidates) for e in dataset.examples("test")}
        slot = titles["e00"].index(f"Right {NASTY}") + 1
        return {
            "e00": record("e00", f"[reasoning_start]\nx\n[reasoning_end]\n({slot}) Right {NASTY}"),
            "e01": record("e01", "I can't say."),
        }

    monkeypatch.setattr(teacher, "synthesize", synthesize)
    monkeypatch.setattr(teacher, "first_answers", answers)
    config = RunConfig.model_validate({"synthesis": {"tau": 5, "attempts": 9}})
    shared = Run(Dataset.load(str(folder / "dataset")), str(folder / "out"), config)
    (row,) = compare(["teacher"], shared, contextlib.nullcontext)["systems"]
    (used,) = asked
    assert (used.synthesis.split, used.synthesis.tau, used.synthesis.attempts) == ("test", None, 1)
    assert row["system"] == "some-model zero-shot"
    assert row["valid_ratio"]["value"] == pytest.approx(1 / NUM_USERS)  # the rest count as misses
    assert row["hit_ratio"]["value"] == pytest.approx(1 / NUM_USERS)


def test_recsaver_asks_the_same_teacher_plainly(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def synthesize(dataset: Dataset, out: str, config: RunConfig, keys: Any) -> dict[str, Any]:
        asked.append(config.synthesis.prompt)
        return {"calls": 1}

    monkeypatch.setattr(teacher, "synthesize", synthesize)
    monkeypatch.setattr(teacher, "first_answers", lambda *_: {"e00": record("e00", "(1) Bad")})
    shared = Run(Dataset.load(str(folder / "dataset")), str(folder / "out"), RunConfig())
    (row,) = compare(["recsaver"], shared, contextlib.nullcontext)["systems"]
    assert asked == ["plain"]
    assert row["system"] == "RecSAVER (some-model)"


def test_a_local_teachers_row_follows_from_its_engine(folder: Path) -> None:
    dataset = Dataset.load(str(folder / "dataset"))

    def settings(name: str, **sections: Any) -> dict[str, Any]:
        shared = Run(dataset, "out", RunConfig.model_validate(sections))
        return dict(find_systems([name], shared)[0].identity.settings)

    shorter = {"inference": {"max_model_len": 512}}
    local = {"teacher": {"engine": "vllm", "model": "embedded"}}
    for name in ("teacher", "recsaver", "recsaver-verified"):
        assert settings(name) == settings(name, **shorter)
        assert settings(name, **local) != settings(name, **local, **shorter)
    more = {"evaluate": {"recsaver_samples": 5}}
    assert settings("recsaver") == settings("recsaver", **more)
    assert settings("recsaver-verified") != settings("recsaver-verified", **more)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("[reasoning_start]\nx\n[reasoning_end]\n(2) Blue", 1),
        ("I think of lamps.\n\nRed", 0),
        ("[reasoning_start]\nx\n[reasoning_end]\nGreen", None),
        ("", None),
    ],
)
def test_a_teachers_choice_is_its_answer_or_its_last_line(text: str, index: int | None) -> None:
    assert read_choice(record("e", text), ["Red", "Blue"]) == index


CHAIN = "".join(f"Step {n}. {name}: x\n" for n, name in enumerate(STEPS["full"][:4], 1))


def test_an_output_without_an_end_marker_is_read_alike_in_every_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.load(str(folder / "dataset"))
    text = f"[reasoning_start]\n{CHAIN}Step 5. Recommendation: I take **Right {NASTY}** now."

    class Writes:
        def fit(self, dataset: Dataset, folder: str) -> dict[str, Any]:
            return {}

        def write(self, examples: Sequence[Example]) -> list[WrittenChoice]:
            return [
                WrittenChoice(text, read_strict(text, dataset.titles(e.candidates)), 2)
                for e in examples
            ]

    answers = {e.example_id: record(e.example_id, text) for e in dataset.examples("test")}
    monkeypatch.setattr(evaluation, "build_baseline", lambda *_: Writes())
    monkeypatch.setattr(teacher, "synthesize", lambda *_: {"calls": 1})
    monkeypatch.setattr(teacher, "first_answers", lambda *_: answers)
    shared = Run(dataset, str(folder / "out"), RunConfig())
    rows = compare(["tallrec-gen", "teacher"], shared, contextlib.nullcontext)["systems"]
    first, second = (
        (row["valid_ratio"], row["hit_ratio"], row["hit_ratio_fallback"], row["lenient"])
        for row in rows
    )
    assert first == second
    assert first[0]["value"] == first[1]["value"] == 0
    assert first[2]["value"] == pytest.approx(1 / 3)  # one of three candidates at random
    assert first[3]["num_valid"] == first[3]["num_hits"] == NUM_USERS
