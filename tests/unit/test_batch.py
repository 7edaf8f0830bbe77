from pathlib import Path

import pyarrow as pa
import pytest

from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.inference.batch import _QUERIES, RecommendStage, _absolute, _query_tables
from msrrec.models import ModelSource
from msrrec.schema import Example, Item
from tests.fake_engine import SOURCE, build_broken, build_fake

CANDIDATES = ["Green Tea", "Wool Hat", "Glass Vase"]


def batch(*histories: list[str]) -> pa.Table:
    rows = [
        {"example_id": f"u{n}", "domain": "Home", "history": history, "candidates": CANDIDATES}
        for n, history in enumerate(histories)
    ]
    return pa.Table.from_pylist(rows, schema=_QUERIES)


def test_the_stage_writes_one_row_a_side_and_says_what_it_refused() -> None:
    stage = RecommendStage(SOURCE, InferenceConfig(), ("user", "item"), build_fake)
    rows = stage(batch(["Red Lamp"], [" "])).to_pylist()
    assert [(row["example_id"], row["side"]) for row in rows] == [
        ("u0", "user"),
        ("u0", "item"),
        ("u1", "user"),
        ("u1", "item"),
    ]
    assert rows[0]["index"] == rows[0]["seed"] % 3
    assert rows[0]["error"] is None
    assert rows[3]["error"] == "history[0]: the title is blank; expected visible text"
    assert rows[3]["index"] is None


def test_an_engine_that_cannot_start_is_told_in_a_row() -> None:
    stage = RecommendStage(SOURCE, InferenceConfig(), ("user",), build_broken)
    rows = stage(batch(["Red Lamp"])).to_pylist()
    assert [row["failure"] for row in rows] == ["fake: the weights are a picture of weights"]


@pytest.mark.parametrize(
    ("batch_size", "num_engines", "sizes"),
    [(4, 1, [4, 4, 2]), (256, 1, [10]), (256, 2, [5, 5]), (256, 3, [4, 4, 2]), (3, 50, [1] * 10)],
)
def test_every_engine_gets_work(batch_size: int, num_engines: int, sizes: list[int]) -> None:
    items = {name: Item(name, name) for name in ("h", "a", "b")}
    dataset = Dataset("/data", {"domain": "Home"}, items)
    examples = [Example(f"e{n}", f"u{n}", ("h",), "a", ("a", "b")) for n in range(10)]
    config = InferenceConfig(batch_size=batch_size, num_engines=num_engines)
    tables = list(_query_tables(examples, dataset, config))
    assert [table.num_rows for table in tables] == sizes
    assert pa.concat_tables(tables)["example_id"].to_pylist() == [f"e{n}" for n in range(10)]


def test_folders_become_absolute_and_hub_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    found = _absolute(ModelSource("m", "model", "model", "title"))
    assert (found.path, found.adapter) == (str(tmp_path / "model"), str(tmp_path / "model"))
    hub = ModelSource("m", "meta-llama/Meta-Llama-3-8B", None, "title")
    assert _absolute(hub) == hub
