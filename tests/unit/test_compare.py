import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation import compare as comparison
from msrrec.evaluation.compare import compare
from tests.unit.test_report import NASTY, NUM_USERS, write_dataset


@contextlib.contextmanager
def no_ray() -> Iterator[None]:
    raise AssertionError("none of these systems needs Ray")
    yield


def run(folder: Path, names: str, config: RunConfig | None = None) -> dict[str, Any]:
    dataset = Dataset.load(str(folder / "dataset"))
    return compare(dataset, names.split(","), str(folder / "out"), config or RunConfig(), no_ray)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "dataset")
    return tmp_path


def test_one_table_has_every_system_with_intervals_and_tests(folder: Path) -> None:
    summary = run(folder, "random,popularity")
    assert [row["system"] for row in summary["systems"]] == ["random", "popularity"]
    table = (folder / "out" / "report" / "table.md").read_text()
    # The target is in everybody's training example and the wrong items in none.
    assert "| popularity | 1.0000 [0.758, 1.000] |" in table
    assert "--systems random,popularity" in table
    assert "0.0% of the targets are cold" in table
    results = json.loads((folder / "out" / "report" / "results.json").read_text())
    assert results["systems"][0]["paired"]["p_adjusted"] <= 1
    assert results["systems"][1]["paired"] is None  # the last is what others are held against
    assert results["systems"][0]["num_users"] == NUM_USERS


def test_a_failing_system_is_told_and_leaves_the_rest(folder: Path) -> None:
    summary = run(folder, "category,random,embedding-last")
    assert [row["system"] for row in summary["systems"]] == ["random"]
    assert set(summary["failures"]) == {"category", "embedding-last"}
    table = (folder / "out" / "report" / "table.md").read_text()
    page = (folder / "out" / "report" / "index.html").read_text()
    for text in (table, page):
        assert "no item has categories" in text
        assert "baselines.embedding_model is not set" in text


def test_where_all_fail_the_first_sentence_is_raised(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the first, category: .* no item has categories"):
        run(folder, "category")


def test_only_a_changed_system_runs_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    evaluate = comparison.evaluate_baseline

    def count(dataset: Dataset, name: str, out: str, config: RunConfig) -> dict[str, Any]:
        ran.append(name)
        return evaluate(dataset, name, out, config)

    monkeypatch.setattr(comparison, "evaluate_baseline", count)
    first = run(folder, "random,popularity")
    assert run(folder, "random,popularity") == first
    run(folder, "popularity,random,bm25-last")
    assert ran == ["random", "popularity", "bm25-last"]
    # A setting that no system here uses changes nothing; the seed changes all.
    run(folder, "random", RunConfig.model_validate({"baselines": {"trials": 9}}))
    assert len(ran) == 3
    run(folder, "random", RunConfig.model_validate({"inference": {"seed": 1}}))
    assert ran[3:] == ["random"]
    monkeypatch.setattr(comparison.BASELINES["popularity"].__class__, "code_hash", lambda self: "x")
    run(folder, "popularity")
    assert ran[4:] == ["popularity"]


@pytest.mark.parametrize(
    ("names", "words"),
    [("best", "'best' is unknown"), ("random,random", "found 'random' twice"), ("", "unknown")],
)
def test_names_that_say_nothing_are_refused(folder: Path, names: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(folder, names)
    assert not (folder / "out").exists()


def test_text_from_shops_stays_text_in_the_table(folder: Path) -> None:
    run(folder, "random")
    table = (folder / "out" / "report" / "table.md").read_text()
    assert NASTY not in table
    assert table.startswith("# Systems on Home &lt;script&gt;")
