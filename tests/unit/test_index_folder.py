"""The folder of an index: read back as it was written, and refused where it is damaged."""

import io
from pathlib import Path

import numpy as np
import pytest

from msrrec import storage
from msrrec.errors import DataError
from msrrec.retrieval.folder import load_index, save_index, unpack_arrays
from msrrec.schema import Item
from tests.support.retrieval import build_shop_index, write_shop_dataset


@pytest.fixture
def saved(tmp_path: Path) -> str:
    (tmp_path / "dataset").mkdir()
    index = build_shop_index(write_shop_dataset(tmp_path / "dataset"))
    changed = index.add([Item("rug", "Red oak rug", ("Home", "Rugs"), "Ace")]).remove(["mug"])
    save_index(changed, str(tmp_path / "index"))
    return str(tmp_path / "index")


def test_an_index_read_back_is_the_one_that_was_written(tmp_path: Path, saved: str) -> None:
    index = load_index(saved)
    assert "mug" not in [r.item_id for r in index.search([["lamp"]], 9)[0]]
    assert index.catalogue.items[-1] == Item("rug", "Red oak rug", ("Home", "Rugs"), "Ace")
    copy = str(tmp_path / "copy")
    save_index(index, copy)
    for name in ("items.parquet", "words.parquet", "index.json"):
        assert storage.read_bytes(f"{saved}/{name}") == storage.read_bytes(f"{copy}/{name}")
    histories = [["lamp"], ["tent", "rug"], ["mug"]]
    assert load_index(copy).search(histories, 9) == index.search(histories, 9)
    grown = load_index(copy).add([Item("new", "New lamp")])
    assert grown.version == index.add([Item("new", "New lamp")]).version


def test_a_folder_that_was_cut_off_or_edited_is_refused(tmp_path: Path, saved: str) -> None:
    content = storage.read_bytes(f"{saved}/arrays.npz")
    storage.write_bytes(f"{saved}/arrays.npz", content[:-100])
    with pytest.raises(DataError, match=r"arrays\.npz: was changed or cut off"):
        load_index(saved)
    storage.delete_file(f"{saved}/arrays.npz")
    with pytest.raises(DataError, match=r"arrays\.npz: can't be read"):
        load_index(saved)
    storage.delete_file(f"{saved}/index.json")
    with pytest.raises(DataError, match=r"holds no index\.json; expected a folder made by"):
        load_index(saved)
    with pytest.raises(DataError, match=r"holds no index\.json"):
        load_index(str(tmp_path / "nowhere"))


def test_another_format_and_a_wrong_manifest_are_refused(saved: str) -> None:
    manifest = storage.read_object(f"{saved}/index.json")
    storage.write_json(f"{saved}/index.json", manifest | {"format": 99})
    with pytest.raises(DataError, match="format 99; expected 1"):
        load_index(saved)
    storage.write_json(f"{saved}/index.json", manifest | {"chosen": {"magic": 1}})
    with pytest.raises(DataError, match=r"chosen\.magic"):
        load_index(saved)
    lacking = {name: digest for name, digest in manifest["sha256"].items() if "arrays" not in name}
    storage.write_json(f"{saved}/index.json", manifest | {"sha256": lacking})
    with pytest.raises(DataError, match="files don't belong together"):
        load_index(saved)


def test_objects_of_python_are_never_read() -> None:
    sink = io.BytesIO()
    np.savez(sink, harm=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        unpack_arrays(sink.getvalue())


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, saved: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        save_index(load_index(saved), str(tmp_path / "mine"))
