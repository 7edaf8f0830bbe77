"""Evaluations in partitions give the figures of one part, and read and write part by part."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import DataConfig, RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.data.negatives import draw_candidates
from msrrec.data.partitions import Partitions
from msrrec.data.prepare import prepare
from msrrec.data.records import TITLE_KEY
from msrrec.data.sequences import Sequences
from msrrec.data.sources import find_followers
from msrrec.data.split_files import SplitFiles
from msrrec.data.touched import touched_items
from msrrec.evaluation.examples import partition_examples
from msrrec.evaluation.fusion_study import Learned
from msrrec.evaluation.model_tally import ModelTally, Reading
from msrrec.evaluation.results import ModelFacts
from msrrec.evaluation.systems import SystemId
from msrrec.evaluation.write import EvaluatedPart, Evaluation, write_evaluation
from msrrec.inference.batch import Answered
from msrrec.inference.engine_pool import DEADLY
from msrrec.inference.fusion import Gate, SideOutput
from msrrec.inference.predictions import Prediction
from msrrec.inference.recommender import Mode
from msrrec.metrics.distinct import DistinctCount
from msrrec.metrics.statistics import mean_interval
from tests.support.batches import predict_here
from tests.support.results import read_all

VARIANTS: tuple[Mode, ...] = ("direct", "user", "item", "fused", "routed")
SYSTEM = SystemId(id="msrrec", kind="trained", label="MSR-Rec", paper_row=None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = str(tmp_path_factory.mktemp("data") / "dataset")
    prepare("demo", None, None, path, DataConfig(demo_users=60, num_users=30, k_core=1))
    return Dataset.load(path)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(None, ["inference.num_samples=2", "inference.candidate_logprobs=true"])


@pytest.fixture(scope="module")
def predictions(dataset: Dataset, config: RunConfig) -> list[Prediction]:
    """Both chains and the direct answer of every user, two samples each."""
    examples = dataset.examples("test")
    return predict_here(examples, dataset, ("direct", "user", "item"), config.inference)


def write_in_parts(
    dataset: Dataset, config: RunConfig, predictions: list[Prediction], size: int, out: Path
) -> dict[str, object]:
    each = 3 * config.inference.num_samples

    def answer() -> Iterator[Answered]:
        begin = 0
        for part in Partitions.split(dataset.examples("test"), size).read():
            end = begin + each * len(part)
            yield part, predictions[begin:end]
            begin = end

    learned = Learned(Gate((0.1, -1.0, 1.0), 20), "margin", 0.4)
    tally = ModelTally(Reading(dataset, VARIANTS, 0.4, config.prompt, "test", learned))
    facts = ModelFacts(
        model_dir="m",
        weights="w",
        adapter=None,
        revision=None,
        weights_hash="h",
        form=config.prompt,
    )
    evaluation = Evaluation(SYSTEM, tally.read(answer()), lambda: tally.details(facts, 2.0))
    write_evaluation(evaluation, dataset, str(out), config)
    found: dict[str, object] = json.loads((out / "report" / "metrics.json").read_text())
    return found


def test_partitions_of_any_size_give_the_same_figures_and_rows(
    tmp_path: Path, dataset: Dataset, config: RunConfig, predictions: list[Prediction]
) -> None:
    whole = write_in_parts(dataset, config, predictions, 1000, tmp_path / "whole")
    parts = write_in_parts(dataset, config, predictions, 7, tmp_path / "parts")
    assert parts == whole
    examples = dataset.examples("test")
    for variant in VARIANTS:
        name = f"predictions/{variant}.parquet"
        first, second = (
            read_all(str(tmp_path / kind / name), examples) for kind in ("whole", "parts")
        )
        assert first == second
    assert storage.count_rows(str(tmp_path / "parts" / "predictions" / "samples.parquet")) == 90


def test_what_chains_say_of_wants_is_held_against_the_rules_of_their_world(
    tmp_path: Path, config: RunConfig
) -> None:
    path, out = str(tmp_path / "dataset"), tmp_path / "out"
    settings = DataConfig(demo_users=60, num_users=30, k_core=1, demo_world="transitions")
    prepare("demo", None, None, path, settings)
    dataset = Dataset.load(path)
    examples = dataset.examples("test")
    last = [dataset.items[example.history[-1]].categories[-1] for example in examples]
    rules = find_followers(dataset.manifest)
    wanted = [rules[category] for category in last]
    # the last two users are told the wants in the wrong order
    wanted[-2:] = [(second, first) for first, second in wanted[-2:]]
    chains = [
        f"After {category}, customers mostly buy {one}, then {two}."
        for category, (one, two) in zip(last, wanted, strict=True)
    ]
    rows = [
        Prediction(example.example_id, SideOutput("user", chain, chain, 0, 1.0, 9), 0)
        for example, chain in zip(examples, chains, strict=True)
    ]
    part = EvaluatedPart(examples, {"user": rows})
    write_evaluation(Evaluation(SYSTEM, [part]), dataset, str(out), config)
    found = json.loads((out / "report" / "metrics.json").read_text())
    reasoning = found["variants"]["user"]["reasoning"]
    assert reasoning["num_wants"] == len(examples)
    assert reasoning["true_wants"]["value"] == pytest.approx(1 - 2 / len(examples))


def test_a_split_is_read_in_partitions_up_to_its_limit(dataset: Dataset) -> None:
    found = dataset.partitions("test", limit=17, size=5)
    parts = list(found.read())
    assert found.num_examples == 17
    assert [len(part) for part in parts] == [5, 5, 5, 2]
    assert [e for part in parts for e in part] == dataset.examples("test")[:17]
    assert list(found.read()) == parts


def test_permuted_partitions_are_the_permuted_examples(dataset: Dataset) -> None:
    settings = load_config(None, ["evaluate.permutation=3", "evaluate.num_users=4"]).evaluate
    (part,) = partition_examples(dataset, settings).read()
    assert [e.example_id for e in part] == [e.example_id for e in dataset.examples("test", 4)]
    assert [set(e.candidates) for e in part] == [
        set(e.candidates) for e in dataset.examples("test", 4)
    ]


def test_drawn_negatives_are_the_same_in_partitions_of_any_size(dataset: Dataset) -> None:
    drawn = draw_candidates(dataset, "test", "popular", 4)
    examples = [example for part in drawn.read() for example in part]
    assert [example for part in drawn.read() for example in part] == examples  # read again
    assert [e.example_id for e in examples] == [e.example_id for e in dataset.examples("test")]
    assert {len(set(e.candidates)) for e in examples} == {5}
    first = drawn.limit(7)
    assert (first.num_examples, [e for part in first.read() for e in part]) == (7, examples[:7])
    assert drawn.limit(10_000).num_examples == len(examples)


def test_files_of_a_dataset_are_the_same_in_row_groups_of_any_size(
    dataset: Dataset, tmp_path: Path
) -> None:
    catalogue = storage.read_table(f"{dataset.path}/items.parquet", schema.ITEMS)
    catalogue = catalogue.append_column(TITLE_KEY, catalogue[schema.TITLE])
    sequences = Sequences(np.tile(np.arange(5), 9), np.arange(0, 46, 5))
    users = pa.array([f"u{n}" for n in range(9)])
    settings = DataConfig(train_examples_per_user=0)
    files = SplitFiles.plan(sequences, users, catalogue, settings)
    names = files.write(f"{tmp_path}/whole")
    assert files.write(f"{tmp_path}/parts", rows=4) == names
    for name in names:
        columns = schema.ITEMS if name == "items.parquet" else schema.EXAMPLES
        columns = schema.USERS if name == "users.parquet" else columns
        whole, parts = (
            storage.read_table(f"{tmp_path}/{kind}/{name}", columns) for kind in ("whole", "parts")
        )
        assert parts == whole
    (first, *_) = storage.read_table(f"{tmp_path}/parts/train.parquet", schema.EXAMPLES).to_pylist()
    assert (first["example_id"], first["history"]) == (
        "u0:train:1",
        [catalogue["item_id"][0].as_py()],
    )
    assert files.num_examples == {"train": 18, "validation": 9, "test": 9}


def test_examples_that_killed_their_engines_are_counted_apart(
    dataset: Dataset, config: RunConfig, predictions: list[Prediction], tmp_path: Path
) -> None:
    broken = [replace(p, error=f"{DEADLY} (out of memory)") for p in predictions[:2]]
    other = replace(predictions[2], error="the prompt is too long")
    found = write_in_parts(dataset, config, [*broken, other, *predictions[3:]], 7, tmp_path / "out")
    errors = found["errors"]
    assert isinstance(errors, dict)
    assert (errors["num_refused"], errors["num_deadly"]) == (3, 2)


def test_touched_items_are_those_of_all_splits_and_of_training_alone(dataset: Dataset) -> None:
    touched, trained = touched_items(dataset)
    tests = dataset.examples("test")
    users = [example.user_id for example in tests]
    negatives = [[i for i in e.candidates if i != e.target] for e in tests]
    targets = [[e.target] for e in tests]
    assert touched.find(users, targets) == [True] * len(users)
    assert touched.find(users, [e.history for e in tests]) == [True] * len(users)
    assert trained.find(users, targets) == [False] * len(users)
    assert touched.find(users, negatives) == [False] * len(users)
    assert touched.find(users, [[] for _ in users]) == [False] * len(users)


def test_different_texts_are_counted_exactly_up_to_a_limit_and_nearly_beyond_it() -> None:
    count = DistinctCount()
    count.add(["a", "b", "a"])
    count.add(["b", "c"])
    assert count.count == 3
    many = DistinctCount(max_kept=4_000)
    for _ in range(2):
        many.add(str(n) for n in range(20_000))
    # Between 2,000 and 4,000 hashes are kept of 8 or more, each for 8: 3 standard errors are 6%.
    assert many.count == pytest.approx(20_000, rel=0.08)
    assert many.count % 8 == 0


def test_the_interval_of_very_many_users_is_that_of_the_normal_approximation() -> None:
    # A share of 0.25 of 200,000 users has a standard error of sqrt(0.25 * 0.75 / 200,000).
    values = np.tile([1.0, 0.0, 0.0, 0.0], 50_000)
    found = mean_interval(values.tolist())
    assert found is not None
    error = math.sqrt(0.25 * 0.75 / 200_000)
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - 1.96 * error, abs=error / 10)
    assert found.high == pytest.approx(0.25 + 1.96 * error, abs=error / 10)


def test_a_table_is_read_in_pieces_with_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    storage.write_table(path, pa.table({"id": ["a", "b", "c"], "other": [1, 2, 3]}))
    wanted = pa.schema([pa.field("id", pa.string())])
    found = [table.to_pydict() for table in storage.iter_tables(path, wanted, 2)]
    assert found == [{"id": ["a", "b"]}, {"id": ["c"]}]
    assert storage.count_rows(path) == 3
