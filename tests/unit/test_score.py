from pathlib import Path

import pytest

from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.evaluation.results import ReasoningScores
from msrrec.evaluation.score import score_evaluation, scored_text
from msrrec.metrics.anchors import Reference, text_anchors
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


def test_scores_stand_beside_texts_of_known_worth(
    tmp_path: Path, dataset: Dataset, evaluation: str
) -> None:
    references = write_references(tmp_path / "paths", {"e0": "a", "e1": "a"})
    score_evaluation(dataset, evaluation, references, RunConfig(), None)
    anchors = ReasoningScores.load(evaluation).anchors
    assert list(anchors) == ["another user's", "shuffled words", "reworded", "restated"]
    own = meteor([(REFERENCE, REFERENCE)]).values[0]
    means = {}
    for name, found in anchors.items():
        assert list(found) == ["meteor"]
        assert found["meteor"].num_pairs == 2
        assert found["meteor"].mean is not None
        means[name] = found["meteor"].mean.value
    # Both users have the same reference, so another's is as good as one's own: form is rewarded.
    assert means["another user's"] == pytest.approx(own)
    assert means["restated"] < means["reworded"] < own


def test_a_single_reference_has_no_other_user(
    tmp_path: Path, dataset: Dataset, evaluation: str
) -> None:
    references = write_references(tmp_path / "paths", {"e0": "a"})
    found = score_evaluation(dataset, evaluation, references, RunConfig(), None)
    assert "another user's" not in found["anchors"]


def test_anchors_say_what_their_names_promise() -> None:
    text = "The user likes Red Lamp."
    first = Reference(text, ["Old Tent", "Red Lamp"], "Blue Lamp", "Lights")
    second = Reference("Another path.", ["Sofa"], "Chair")
    found = text_anchors([first, second])
    assert found["another user's"] == [("Another path.", text), (text, "Another path.")]
    shuffled = found["shuffled words"][0][0]
    assert sorted(shuffled.split()) == sorted(text.split())
    assert found["reworded"][0] == ("This customer is fond of Red Lamp.", text)
    assert "Lights in mind" in found["restated"][0][0]
    assert "Blue Lamp belongs there" in found["restated"][0][0]
    assert found["restated"][1][0].startswith("Whoever owns Sofa has a use for Chair")


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
