"""What is read of each input decides its fingerprint, and nothing else does."""

import gzip
import shutil
from pathlib import Path

import pytest

from msrrec.config import load_config
from msrrec.errors import DataError
from msrrec.fingerprint import FINGERPRINTS, fingerprint_setting
from msrrec.models import EMBEDDED_DIR, write_settings

CONFIG = load_config()


def write_model(folder: Path, weights: bytes = b"old", answer_format: str = "title") -> str:
    merged = folder / "merged"
    merged.mkdir(parents=True, exist_ok=True)
    (merged / "config.json").write_text("{}")
    (merged / "model.safetensors").write_bytes(weights)
    settings = {"answer_format": answer_format, "domain": "Shop", "base_model": "embedded"}
    write_settings(folder, settings)
    return str(folder)


def test_a_model_is_its_weights_and_how_it_answers_wherever_it_lies(tmp_path: Path) -> None:
    of = FINGERPRINTS["model"]
    first = of(write_model(tmp_path / "one"), CONFIG)
    assert of(write_model(tmp_path / "two"), CONFIG) == first
    assert of(str(tmp_path / "two") + "/", CONFIG) == first
    assert of(write_model(tmp_path / "two", b"new"), CONFIG) != first
    assert of(write_model(tmp_path / "two", answer_format="number_title"), CONFIG) != first


def test_an_evaluation_is_its_predictions(tmp_path: Path) -> None:
    of = FINGERPRINTS["evaluation"]
    for name in ("one", "two"):
        (tmp_path / name / "predictions").mkdir(parents=True)
        (tmp_path / name / "predictions" / "fused.parquet").write_bytes(b"rows")
        (tmp_path / name / "note.txt").write_text(name)
    assert of(str(tmp_path / "one"), CONFIG) == of(str(tmp_path / "two"), CONFIG)
    (tmp_path / "two" / "predictions" / "user.parquet").write_bytes(b"rows")
    assert of(str(tmp_path / "one"), CONFIG) != of(str(tmp_path / "two"), CONFIG)


@pytest.mark.parametrize("path", ["part-0.csv", "", "part-*.csv"])
def test_files_folders_and_patterns_of_purchases_follow_every_byte(
    tmp_path: Path, path: str
) -> None:
    of = FINGERPRINTS["interactions"]
    (tmp_path / "part-0.csv").write_text("user_id,item_id,timestamp\n")
    before = of(str(tmp_path / path), CONFIG)
    shutil.copytree(tmp_path, tmp_path.with_name(tmp_path.name + "-moved"))
    assert of(str(tmp_path.with_name(tmp_path.name + "-moved") / path), CONFIG) == before
    (tmp_path / "part-0.csv").write_text("user_id,item_id,timestamq\n")
    assert of(str(tmp_path / path), CONFIG) != before


def test_missing_purchases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        FINGERPRINTS["interactions"](str(tmp_path / "none.csv"), CONFIG)
    with pytest.raises(DataError, match="no such file or folder"):
        FINGERPRINTS["items"](str(tmp_path / "none-*.csv"), CONFIG)


def test_a_packed_file_is_another_file(tmp_path: Path) -> None:
    of = FINGERPRINTS["items"]
    (tmp_path / "items.csv").write_bytes(b"item_id,title\n")
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress(b"item_id,title\n"))
    names = ("items.csv", "items.csv.gz")
    assert len({of(str(tmp_path / name), CONFIG) for name in names}) == 2


def test_the_embedded_backbone_counts_by_its_weights_and_a_hubs_model_by_its_name() -> None:
    assert fingerprint_setting("embedded") == fingerprint_setting(str(EMBEDDED_DIR))
    assert fingerprint_setting("meta-llama/Meta-Llama-3-8B") == "meta-llama/Meta-Llama-3-8B"
