"""Training on a real Ray: one worker and two, resume, and what is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, DataError, ModelError
from msrrec.models import locate_model
from msrrec.schema import Item
from msrrec.training.checkpoint import read_metrics
from tests.support.training import adapter_weights, make_config, write_paths

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

WORDS = ("Oak", "Blue", "Tin", "Soft", "Tall", "Old", "Red")
THINGS = ("Lamp", "Kettle", "Shelf", "Mug", "Drill", "Chair", "Clock")
ONE_AT_A_TIME = "train.micro_batch_size=1"
"""So that in the batch of three one of two workers has less to do."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven users, so the last batch of four has three; three others are validated on."""
    folder = str(tmp_path_factory.mktemp("dataset"))
    titles = [f"{word} {thing}" for word in WORDS for thing in THINGS]
    items = {f"i{n}": Item(f"i{n}", title) for n, title in enumerate(titles)}
    rows = [
        {
            "example_id": f"u{n}",
            "user_id": f"u{n}",
            "history": [f"i{m}" for m in range(20, 22 + n)],
            "target": f"i{n}",
            "candidates": [f"i{m}" for m in range(7)],
        }
        for n in range(7)
    ]
    others = [{**row, "user_id": f"v{n}"} for n, row in enumerate(rows[:3])]
    for split, held in (("train", rows), ("validation", others)):
        table = pa.Table.from_pylist(held, schema.EXAMPLES)
        storage.write_table(f"{folder}/{split}.parquet", table)
    return Dataset(folder, {"domain": "Home", "fingerprint": "abc"}, items)


@pytest.fixture(scope="module")
def reasoning(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> str:
    """Paths of the first five users."""
    folder = str(tmp_path_factory.mktemp("reasoning"))
    write_paths(folder, dataset, 5)
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    ray_local: None,
    base: str,
    dataset: Dataset,
    reasoning: str,
) -> tuple[Path, dict[str, Any]]:
    """The model of one worker that takes one example at a time, and its summary."""
    from msrrec.training.loop import train

    out = tmp_path_factory.mktemp("models") / "one"
    return out, train(dataset, reasoning, str(out), make_config(base, ONE_AT_A_TIME))


def test_the_folder_is_whole(trained: tuple[Path, dict[str, Any]], base: str) -> None:
    out, summary = trained
    counts = {key: summary[key] for key in ("num_examples", "num_reasoning", "steps")}
    assert counts == {"num_examples": 7, "num_reasoning": 5, "steps": 4}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["epoch"]) for row in rows] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert all(row["tokens_per_s"] > 0 and row["memory_bytes"] > 0 for row in rows)
    assert summary["loss"] == rows[-1]["loss"]
    source = locate_model(str(out))
    assert (source.path, source.adapter) == (str(out / "merged"), None)
    assert (source.form.answer_format, source.domain) == ("number_title", "Home")
    settings = json.loads((out / "config.json").read_text())
    assert settings["base_model"] == base
    assert settings["dataset_fingerprint"] == "abc"


def test_merged_model_and_adapter_give_the_same_logits(
    trained: tuple[Path, dict[str, Any]], base: str
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = trained
    ids = torch.arange(5, 25)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    with torch.no_grad():
        untrained = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, out / "adapter")(ids).logits
        torch.testing.assert_close(merged(ids).logits, adapted, atol=1e-5, rtol=1e-5)
    assert (adapted - untrained).abs().max() > 1e-4
    for part in ("adapter", "merged"):
        assert AutoTokenizer.from_pretrained(out / part).eos_token_id == plain.config.eos_token_id


def test_a_finished_run_begins_anew_with_two_workers_as_with_one_and_sharded_ones_go_on(
    trained: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    base: str,
    dataset: Dataset,
    reasoning: str,
) -> None:
    from msrrec.training.loop import train

    out = tmp_path / "model"
    shutil.copytree(trained[0], out)
    one = adapter_weights(out)
    settings = ["train.num_workers=2", ONE_AT_A_TIME, "train.export_merged=false"]
    summary = train(dataset, reasoning, str(out), make_config(base, *settings))
    two = adapter_weights(out)
    assert_close(two, one)
    assert max(w.abs().max() for n, w in two.items() if "lora_B" in n) > 1e-4  # it did learn
    assert summary["loss"] == pytest.approx(trained[1]["loss"], abs=1e-5)
    assert summary["tokens_per_s"] != trained[1]["tokens_per_s"]  # it was trained again
    assert not (out / "merged").exists()

    before = read_metrics(str(out))
    (out / "config.json").unlink()
    (last,) = out.glob("checkpoints/run-*/step-00000004")
    shutil.rmtree(last)  # as if it was killed after its third step
    settings += ["train.strategy=fsdp", "train.gradient_checkpointing=true"]
    train(dataset, reasoning, str(out), make_config(base, *settings))
    rows = read_metrics(str(out))
    assert rows[:2] == before[:2]
    assert rows[2]["tokens_per_s"] != before[2]["tokens_per_s"]  # that step was done again
    assert_close(adapter_weights(out), two)


def assert_close(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=0)


def test_a_run_that_was_killed_while_it_wrote_the_model_goes_on(
    trained: tuple[Path, dict[str, Any]], base: str, dataset: Dataset, reasoning: str
) -> None:
    from msrrec.training.loop import train

    out, summary = trained
    (out / "config.json").unlink()
    with pytest.raises(ModelError):
        locate_model(str(out))
    before = adapter_weights(out)
    again = train(dataset, reasoning, str(out), make_config(base, ONE_AT_A_TIME))
    # its speed too: nothing was trained
    assert again == {**summary, "steps_resumed": summary["steps"]}
    assert summary["steps_resumed"] == 0
    assert all((adapter_weights(out)[name] == weight).all() for name, weight in before.items())


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path: Path, base: str, dataset: Dataset, reasoning: str
) -> None:
    from msrrec.training.loop import train

    out = str(tmp_path / "none")
    many = make_config(base, "train.num_workers=64", "train.global_batch_size=64")
    with pytest.raises(ConfigError, match="there is no --reasoning"):
        train(dataset, None, out, make_config(base))
    with pytest.raises(ConfigError, match=r"train\.num_workers=64: the Ray cluster has"):
        train(dataset, reasoning, out, many)
    with pytest.raises(DataError, match="example u0: "):
        train(dataset, reasoning, out, make_config(base, "train.max_seq_len=64"))
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        train(dataset, reasoning, out, make_config(str(tmp_path)))
    assert not (tmp_path / "none").exists()


def test_training_stops_when_validation_stalls_and_the_best_is_the_model(
    tmp_path: Path, base: str, dataset: Dataset
) -> None:
    from msrrec.training.loop import train

    config = make_config(
        base,
        "train.arm=none",
        "train.num_epochs=10",
        "train.learning_rate=1e-30",  # nothing is learned, so no validation is better
        "train.validate_every_steps=2",
        "train.patience=3",
        "train.keep=best",
        "train.export_merged=false",
    )
    summary = train(dataset, None, str(tmp_path), config)
    assert (summary["steps"], summary["kept_step"]) == (8, 2)
    losses = {r["step"]: r.get("validation_loss") for r in read_metrics(str(tmp_path))}
    assert [step for step, loss in losses.items() if loss] == [2, 4, 6, 8]
    assert set(losses.values()) == {None, summary["validation_loss"]}
    (run,) = tmp_path.glob("checkpoints/run-*")
    kept = {step: run / f"step-{step:08d}" / "adapter_model.safetensors" for step in (2, 6, 8)}
    assert sorted(run.glob("step-*")) == [file.parent for file in kept.values()]
    exported = tmp_path / "adapter" / "adapter_model.safetensors"
    assert exported.read_bytes() == kept[2].read_bytes()
    (tmp_path / "config.json").unlink()  # as if it was killed while it wrote the model
    again = train(dataset, None, str(tmp_path), config)
    assert again == {**summary, "steps_resumed": summary["steps"]}
