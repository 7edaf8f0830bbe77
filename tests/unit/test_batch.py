import threading
from pathlib import Path

import pyarrow as pa
import pytest

from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.inference.batch import (
    QueryEncoder,
    RecommendStage,
    TitleTable,
    batch_length,
    make_absolute,
)
from msrrec.models import ModelSource
from msrrec.schema import Example, Item
from tests.support.batches import read_stage
from tests.support.engine import (
    SOURCE,
    FakeEngine,
    answer_by_seed,
    build_broken,
    build_fake,
    recommender,
)

CANDIDATES = ["Green Tea", "Wool Hat", "Glass Vase"]


ITEMS = {name: Item(name, name) for name in (*CANDIDATES, "Red Lamp", "Blue Shoe")}
ITEMS["blank"] = Item("blank", " ")


DATASET = Dataset("/data", {"domain": "Home"}, ITEMS)
TITLES = TitleTable.collect(DATASET)


def ask(*histories: tuple[str, ...]) -> pa.Table:
    examples = [
        Example(f"u{n}", f"u{n}", history, CANDIDATES[0], tuple(CANDIDATES))
        for n, history in enumerate(histories)
    ]
    return QueryEncoder(DATASET).encode(examples)


def test_queries_are_the_titles_of_their_rows() -> None:
    rows = ask(("Red Lamp",), ("Blue Shoe", "Red Lamp"), ("Wool Hat",))
    found = TITLES.read(rows.take([2, 1]))
    assert [query.key for query in found] == ["u2", "u1"]
    assert [query.history for query in found] == [("Wool Hat",), ("Blue Shoe", "Red Lamp")]
    assert found[0].candidates == tuple(CANDIDATES)
    assert found[0].domain == "Home"


def test_the_stage_writes_one_row_a_side_and_says_what_it_refused() -> None:
    stage = RecommendStage(SOURCE, InferenceConfig(), ("user", "item"), TITLES, build_fake)
    rows = read_stage(stage, ask(("Red Lamp",), ("blank",)))
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


def test_several_samples_of_a_side_have_seeds_of_their_own() -> None:
    config = InferenceConfig(num_samples=3)
    stage = RecommendStage(SOURCE, config, ("user",), TITLES, build_fake)
    rows = read_stage(stage, ask(("Red Lamp",)))
    assert [(row["example_id"], row["sample"]) for row in rows] == [("u0", 0), ("u0", 1), ("u0", 2)]
    assert len({row["seed"] for row in rows}) == 3
    alone = RecommendStage(SOURCE, InferenceConfig(), ("user",), TITLES, build_fake)
    assert read_stage(alone, ask(("Red Lamp",))) == rows[:1]


def test_what_is_complete_is_sent_while_another_example_is_still_written() -> None:
    may_end = threading.Event()

    def answer(prompt: str, seed: int) -> str:
        if "Red Lamp" in prompt:
            assert may_end.wait(10)
        return answer_by_seed(prompt, seed)

    stage = RecommendStage(
        *(SOURCE, InferenceConfig(), ("user",), TITLES),
        lambda _, config: recommender(FakeEngine(answer), config),
    )
    groups = stage.generate(ask(("Red Lamp",), *[("Blue Shoe",)] * 3))
    early = [next(groups)["example_id"].to_pylist() for _ in range(3)]
    may_end.set()
    assert sorted(early) == [["u1"], ["u2"], ["u3"]]
    assert [group["example_id"].to_pylist() for group in groups] == [["u0"]]


def test_an_engine_that_cannot_start_is_told_in_a_row() -> None:
    stage = RecommendStage(SOURCE, InferenceConfig(), ("user",), TITLES, build_broken)
    rows = read_stage(stage, ask(("Red Lamp",)))
    assert [row["failure"] for row in rows] == ["fake: the weights are a picture of weights"]


@pytest.mark.parametrize(
    ("batch_size", "num_engines", "expected"),
    [(4, 1, 4), (256, 1, 10), (256, 2, 5), (256, 3, 4), (3, 50, 1)],
)
def test_every_engine_gets_work(batch_size: int, num_engines: int, expected: int) -> None:
    config = InferenceConfig(batch_size=batch_size, num_engines=num_engines)
    assert batch_length(10, config) == expected


def test_folders_becomemake_absolute_and_hub_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    found = make_absolute(ModelSource("m", "model", "model"))
    assert (found.path, found.adapter) == (str(tmp_path / "model"), str(tmp_path / "model"))
    hub = ModelSource("m", "meta-llama/Meta-Llama-3-8B", None)
    assert make_absolute(hub) == hub
