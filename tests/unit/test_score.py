from pathlib import Path

import pytest

from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.evaluation.results import ReasoningScores
from msrrec.evaluation.score import score_evaluation, scored_text
from msrrec.metrics.text import meteor
from tests.support.score import REFERENCE, prediction, write_references, write_scored


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Dataset, str]:
    return write_scored(tmp_path)


@pytest.fixture
def dataset(scored: tuple[Dataset, str]) -> Dataset:
    return scored[0]


@pytest.fixture
def evaluation(scored: tuple[Dataset, str]) -> str:
    return scored[1]


def test_only_users_with_a_correct_path_are_scored(
    tmp_path: Path, dataset: Dataset, evaluation: str
) -> None:
    # The path of user 2 recommends another item; user 3 has none; "x" was not evaluated.
    references = write_references(tmp_path / "paths", {"e0": "a", "e1": "a", "e2": "b", "x": "a"})
    found = score_evaluation(dataset, evaluation, references, RunConfig(), None)
    assert (found["num_references"], found["num_users"]) == (2, 4)
    own = meteor([(REFERENCE, REFERENCE)]).values[0]
    assert found["variants"]["user"]["meteor"]["all"]["value"] == pytest.approx(own / 2)
    assert found["variants"]["user"]["meteor"]["correct"]["value"] == pytest.approx(own)
    assert list(found["variants"]["user"]) == ["meteor"]  # the others were not asked for
    assert ReasoningScores.load(evaluation).summary() == found


def test_without_any_reference_there_is_nothing_to_score(
    tmp_path: Path, dataset: Dataset, evaluation: str
) -> None:
    references = write_references(tmp_path / "paths", {"u0:train": "a"})
    with pytest.raises(DataError, match=r"synthesis\.split set to the evaluated split"):
        score_evaluation(dataset, evaluation, references, RunConfig(), None)


def test_an_evaluation_of_another_dataset_is_refused(
    tmp_path: Path, dataset: Dataset, evaluation: str
) -> None:
    references = write_references(tmp_path / "paths", {"e0": "a"})
    other = Dataset("other", {**dataset.manifest, "fingerprint": "f01"}, dataset.items)
    with pytest.raises(DataError, match="give the dataset that was evaluated"):
        score_evaluation(other, evaluation, references, RunConfig(), None)


def test_an_output_without_reasoning_is_scored_by_all_that_it_says() -> None:
    text = "[reasoning_start]\n[reasoning_end]\n(1) Lamp"
    assert scored_text(prediction(0, 0, "", text).output) == "(1) Lamp"
    assert scored_text(prediction(0, 0, "Because.", text).output) == "Because."
