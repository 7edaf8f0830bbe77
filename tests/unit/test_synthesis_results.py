"""The files of a run about a split other than training."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.schema import Example
from msrrec.synthesis.journal import hash_prompt
from msrrec.synthesis.plan import Spending
from msrrec.synthesis.requests import build_requests, iter_prompts
from msrrec.synthesis.results import RunFigures, build_quotas, write_results
from tests.support.synthesis import judged

FIGURES = RunFigures(0, None, 0, 0, None, 1, Spending(), 0.0)
STEPS = ("likes tea", "red kettle", "it fits", "the kettle", "Red Kettle")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One training user of three, and a test example of each of them."""
    titles = {"h": "Old Pot", "a": "Red Kettle", "b": "Garden Hose"}
    items = [{"item_id": i, "title": title, "categories": ["Home"]} for i, title in titles.items()]
    folder = str(tmp_path / "dataset")
    storage.write_table(f"{folder}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    for split, count in (("train", 1), ("test", 3)):
        rows = [
            {
                "example_id": f"{split}-{n}",
                "user_id": f"u{n}",
                "history": ["h"],
                "target": "a" if split == "test" else "b",
                "candidates": ["a", "b"],
            }
            for n in range(count)
        ]
        table = pa.Table.from_pylist(rows, schema=schema.EXAMPLES)
        storage.write_table(f"{folder}/{split}.parquet", table)
    storage.write_json(
        f"{folder}/manifest.json", {"schema_version": 1, "domain": "Home", "fingerprint": "f00"}
    )
    return Dataset.load(folder)


def config_of_test_split() -> RunConfig:
    return load_config(None, ["synthesis.split=test", "synthesis.tau_per_user=1"])


def test_thresholds_are_those_of_the_split_that_is_asked_about(dataset: Dataset) -> None:
    (quota,) = build_quotas(dataset, config_of_test_split())
    assert quota.group_of == {"test-0": "u0", "test-1": "u1", "test-2": "u2"}


def test_the_card_and_the_summary_count_the_split_that_was_asked_about(
    dataset: Dataset, tmp_path: Path
) -> None:
    config, out = config_of_test_split(), str(tmp_path / "out")
    (tmp_path / "out" / "journal").mkdir(parents=True)
    requests = build_requests(dataset, config)
    entries = [judged(example_id="test-0", verdict="kept", steps=STEPS)]
    line = b'{"example_id": "test-0", "attempt": 0, "prompt_hash": "h", "text": "t", '
    line += b'"reasoning_content": null, "finish_reason": "stop", "usage": {}, "served_model": "m",'
    line += b'"latency_s": 1, "tries": 1, "answered_at_s": 1, "model": "m", "temperature": 0.6,'
    line += b'"max_tokens": 9}\n'
    (tmp_path / "out" / "journal" / "1.jsonl").write_bytes(line)
    summary = write_results(out, dataset, requests, entries, config, FIGURES)
    assert (summary["examples"], summary["left_out"], summary["kept"]) == (3, 0, 1)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["kept"]["examples"], card["kept"]["kept"]) == (1, 1)  # the one with an answer
    (path,) = storage.read_table(f"{out}/paths.parquet", schema.PATHS).to_pylist()
    assert (path["example_id"], path["item_id"]) == ("test-0", "a")


def test_a_teacher_is_asked_in_the_form_of_the_settings_and_judged_by_what_it_saw(
    dataset: Dataset,
) -> None:
    short = ["prompt.order=candidates_first", "prompt.instruction=short"]
    overrides = ["synthesis.split=test", "prompt.answer_format=title", *short]
    (request, *_) = build_requests(dataset, load_config(None, overrides)).values()
    assert request.prompt == (
        "Domain: Home\nCandidates:\n(1) Red Kettle\n(2) Garden Hose\n"
        "History, oldest first:\n- Old Pot\n"
        "Steps: Preference Recognition, Attribute Analysis, Logic Matching, Candidate Choice, "
        "Recommendation; [reasoning_end]; title."
    )
    dataset.items["a"] = replace(dataset.items["a"], title="Red Kettle Of Two Litres")
    cut = load_config(None, ["synthesis.split=test", "prompt.max_title_chars=16"])
    (request, *_) = build_requests(dataset, cut).values()
    assert request.candidates == ("Red Kettle Of…", "Garden Hose")
    assert "\n(1) Red Kettle Of…\n" in request.prompt


def test_requests_are_built_when_asked_for_and_are_the_same_elsewhere(dataset: Dataset) -> None:
    requests = build_requests(dataset, config_of_test_split())
    assert list(requests) == ["test-0", "test-1", "test-2"]
    assert len(requests) == 3
    sent = pickle.loads(pickle.dumps(requests))
    for example_id, request in requests.items():
        assert request.example_id == example_id
        assert request.prompt_hash == hash_prompt(request.prompt)
        assert sent[example_id] == request
    assert list(iter_prompts(requests)) == [request.prompt for request in requests.values()]
    assert "train-0" not in requests
    with pytest.raises(KeyError):
        requests["train-0"]


def test_a_training_request_knows_what_its_user_buys_later(dataset: Dataset) -> None:
    target = Example("validation-0", "u0", ("h",), "h", ("h", "b"))
    rows = [vars(replace(target, example_id="v", user_id="u1"))]
    table = pa.Table.from_pylist(rows, schema=schema.EXAMPLES)
    storage.write_table(f"{dataset.path}/validation.parquet", table)
    storage.delete_file(f"{dataset.path}/test.parquet")
    row = {"example_id": "t", "user_id": "u1", "history": ["a"], "target": "b"}
    table = pa.Table.from_pylist([row | {"candidates": ["a", "b"]}], schema=schema.EXAMPLES)
    storage.write_table(f"{dataset.path}/train.parquet", table)
    (request,) = build_requests(dataset, load_config(None, [])).values()
    assert (request.later, request.target) == (("Old Pot",), 1)
