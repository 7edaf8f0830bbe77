"""What is read of each input decides its fingerprint, and nothing else does."""

import shutil
from pathlib import Path

import pytest

from msrrec import storage
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.fingerprint import FINGERPRINTS, fingerprint_setting, identify_dataset
from msrrec.models import EMBEDDED_DIR, write_settings
from msrrec.stage import Call
from tests.support.dataset import write_dataset

CONFIG = load_config()
READER = Call("out", CONFIG)


def of_purchases(path: str, items: str) -> str:
    """The fingerprint of a table's interactions."""
    inputs = {"interactions": path, "items": items}
    return FINGERPRINTS["interactions"](path, Call("out", CONFIG, inputs, {"source": "table"}))


def write_model(folder: Path, weights: bytes = b"old", answer_format: str = "title") -> str:
    merged = folder / "merged"
    merged.mkdir(parents=True, exist_ok=True)
    (merged / "config.json").write_text("{}")
    (merged / "model.safetensors").write_bytes(weights)
    settings = {
        "prompt": {"answer_format": answer_format},
        "domain": "Shop",
        "base_model": "embedded",
    }
    write_settings(str(folder), settings)
    return str(folder)


def test_a_model_is_its_weights_and_how_it_answers_wherever_it_lies(tmp_path: Path) -> None:
    of = FINGERPRINTS["model"]
    first = of(write_model(tmp_path / "one"), READER)
    assert of(write_model(tmp_path / "two"), READER) == first
    assert of(str(tmp_path / "two") + "/", READER) == first
    assert of(write_model(tmp_path / "two", b"new"), READER) != first
    assert of(write_model(tmp_path / "two", answer_format="number_title"), READER) != first


def test_a_model_that_is_not_merged_is_its_base_and_its_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    settings = {"answer_format": "title", "domain": "Shop", "base_model": "embedded"}
    settings |= {"revision": None}
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"old")
    write_settings(str(folder), settings)
    first = FINGERPRINTS["model"](str(folder), READER)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"new")
    assert FINGERPRINTS["model"](str(folder), READER) != first


def test_a_datasets_shop_counts_as_prompts_name_it(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, 4)
    first = identify_dataset(dataset)
    assert identify_dataset(Dataset.load(dataset.path)) == first
    renamed = {**dataset.manifest, "domain": "Another shop"}
    storage.write_json(str(tmp_path / "manifest.json"), renamed)
    assert identify_dataset(Dataset.load(dataset.path)) != first


def test_an_evaluation_is_its_predictions(tmp_path: Path) -> None:
    of = FINGERPRINTS["evaluation"]
    for name in ("one", "two"):
        (tmp_path / name / "predictions").mkdir(parents=True)
        (tmp_path / name / "predictions" / "fused.parquet").write_bytes(b"rows")
        (tmp_path / name / "note.txt").write_text(name)
    assert of(str(tmp_path / "one"), READER) == of(str(tmp_path / "two"), CONFIG)
    (tmp_path / "two" / "predictions" / "user.parquet").write_bytes(b"rows")
    assert of(str(tmp_path / "one"), READER) != of(str(tmp_path / "two"), CONFIG)


@pytest.mark.parametrize("path", ["part-0.csv", "", "part-*.csv"])
def test_files_folders_and_patterns_of_purchases_follow_every_byte_that_is_read(
    tmp_path: Path, path: str
) -> None:
    shop = tmp_path / "one" / "shop"
    shop.mkdir(parents=True)
    (tmp_path / "items.csv").write_text("item_id,title\n")
    (shop / "part-0.csv").write_text("user_id,item_id,timestamp\n")
    (shop / ".DS_Store").write_text("which no source reads")
    items = str(tmp_path / "items.csv")
    before = of_purchases(str(shop / path), items)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "shop" / ".DS_Store").unlink()
    assert of_purchases(str(tmp_path / "two" / "shop" / path), items) == before
    (shop / "part-0.csv").write_text("user_id,item_id,timestamq\n")
    assert of_purchases(str(shop / path), items) != before


def test_movies_beside_ratings_count_with_them(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Heat,Drama\n")
    inputs = {"interactions": str(tmp_path / "ratings.csv")}
    call = Call("out", CONFIG, inputs, {"source": "movielens"})
    before = FINGERPRINTS["interactions"](inputs["interactions"], call)
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Cold,Drama\n")
    assert FINGERPRINTS["interactions"](inputs["interactions"], call) != before


def test_the_name_that_prompts_give_the_shop_counts(tmp_path: Path) -> None:
    for name in ("toys", "books"):
        (tmp_path / f"{name}.csv").write_text("user_id,item_id,timestamp\n")
    items = str(tmp_path / "toys.csv")
    of = {name: of_purchases(str(tmp_path / f"{name}.csv"), items) for name in ("toys", "books")}
    assert of["toys"] != of["books"]


def test_missing_purchases_are_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n")
    for name in ("none.csv", "none-*.csv"):
        with pytest.raises(DataError, match=r"no such file or folder|matches no file"):
            of_purchases(str(tmp_path / name), str(tmp_path / "items.csv"))


def test_a_models_tokenizer_and_configuration_count(tmp_path: Path) -> None:
    of = FINGERPRINTS["model"]
    before = of(write_model(tmp_path / "one"), READER)
    (tmp_path / "one" / "merged" / "config.json").write_text('{"rope_theta": 7}')
    changed = of(str(tmp_path / "one"), READER)
    assert changed != before
    (tmp_path / "one" / "merged" / "tokenizer.json").write_text("{}")
    assert of(str(tmp_path / "one"), READER) not in (before, changed)


def test_the_embedded_backbone_counts_by_its_weights_and_a_hubs_model_by_its_name() -> None:
    assert fingerprint_setting("embedded") == fingerprint_setting(str(EMBEDDED_DIR))
    assert fingerprint_setting("meta-llama/Meta-Llama-3-8B") == "meta-llama/Meta-Llama-3-8B"
