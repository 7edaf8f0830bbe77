from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.evaluation.results import ReasoningScores
from msrrec.evaluation.score import score_evaluation, scored_text
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.metrics.text import meteor
from msrrec.schema import Example
from tests.support.results import evaluation_result, system_id, variant_result

REFERENCE = "The user likes red lamps."


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four test users; all bought ``a``."""
    path = str(tmp_path / "dataset")
    items = [{"item_id": i, "title": i} for i in "hab"]
    storage.write_table(f"{path}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    examples = [vars(Example(f"e{n}", f"u{n}", ("h",), "a", ("a", "b"))) for n in range(4)]
    table = pa.Table.from_pylist(examples, schema=schema.EXAMPLES)
    storage.write_table(f"{path}/test.parquet", table)
    manifest = {"schema_version": 1, "domain": "Home", "fingerprint": "f00"}
    storage.write_json(f"{path}/manifest.json", manifest)
    return Dataset.load(path)


def prediction(n: int, index: int | None, reasoning: str, text: str = "") -> Prediction:
    return Prediction(f"e{n}", SideOutput("user", text, reasoning, index, None, 1), 0)


@pytest.fixture
def evaluation(tmp_path: Path) -> str:
    """Right with the reference's words, wrong with other words, and two more."""
    folder = str(tmp_path / "evaluation")
    rows = [
        prediction(0, 0, REFERENCE),
        prediction(1, 1, "Nothing in common"),
        prediction(2, 0, REFERENCE),
        prediction(3, None, ""),
    ]
    candidates = {f"e{n}": ("a", "b") for n in range(4)}
    write_predictions(f"{folder}/predictions/user.parquet", rows, candidates)
    result = evaluation_result(system_id("m", "trained"), {"user": variant_result()})
    result.save(folder)
    return folder


def write_references(folder: Path, paths: dict[str, str]) -> str:
    """Example to the item that its path recommends."""
    rows = [
        {"example_id": e, "steps": [], "reasoning": REFERENCE, "item_id": i, "model": "teacher"}
        for e, i in paths.items()
    ]
    table = pa.Table.from_pylist(rows, schema=schema.PATHS)
    storage.write_table(str(folder / "paths.parquet"), table)
    return str(folder)


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
