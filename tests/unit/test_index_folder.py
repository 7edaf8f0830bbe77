"""The folder of an index: read back as it was written, and refused where it is damaged."""

import io
from dataclasses import dataclass
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


def test_sasrec_of_an_index_is_read_back_and_belongs_to_its_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from msrrec.baselines.sequential.sasrec import SasRec
    from msrrec.config import load_config
    from msrrec.retrieval.build import build_index
    from msrrec.retrieval.sequential.sasrec import SasRecNetwork
    from msrrec.retrieval.sequential.saved import SasRecRetriever, read_sasrec, save_sasrec

    @dataclass(frozen=True)
    class Shape:
        size: int = 8
        dropout: float = 0.0

    (tmp_path / "dataset").mkdir()
    dataset = write_shop_dataset(tmp_path / "dataset")
    torch.manual_seed(0)
    network = SasRecNetwork(len(dataset.items), 0, 4, Shape()).eval()
    monkeypatch.setattr(SasRec, "fitted", network)
    folder = str(tmp_path / "network")
    SasRec(load_config()).save(dataset, folder)
    facts = read_sasrec(folder).facts
    assert (facts.length, facts.size) == (4, 8)
    settings = load_config(None, ["retrieval.tuning_users=0"]).retrieval
    index = build_index(dataset, settings, [Item("new", "Oak lamp")], folder)
    # By hand: the state after lamp and mug (items 1 and 6), times every item's vector.
    with torch.inference_mode():
        state = network(torch.tensor([[1, 6, 0, 0]]), torch.tensor([0]))[0, 1]
        order = (network.table @ state).argsort(descending=True).tolist()
    wanted = [list(dataset.items)[code] for code in order]
    found = index.search([["lamp", "mug"], []], 9)
    ranked = sorted((r.ranks["sasrec"], r.item_id) for r in found[0] if "sasrec" in r.ranks)
    assert [item for _, item in ranked] == [i for i in wanted if i not in ("lamp", "mug")]
    assert all("sasrec" not in r.ranks for r in found[1])  # an empty history says nothing
    save_index(index, str(tmp_path / "index"))
    assert load_index(str(tmp_path / "index")).search([["lamp", "mug"]], 9) == found[:1]
    storage.write_bytes(f"{folder}/sasrec.safetensors", b"no weights")
    with pytest.raises(DataError, match="the files of SASRec are damaged"):
        build_index(dataset, settings, (), folder)
    other = facts.model_copy(update={"dataset": "of another shop"})
    save_sasrec(SasRecRetriever(other, network), folder)
    with pytest.raises(DataError, match="SASRec was trained on dataset of another s; expected"):
        build_index(dataset, settings, (), folder)
    with pytest.raises(DataError, match=r"holds no sasrec\.safetensors; expected the network of"):
        build_index(dataset, settings, (), str(tmp_path))
