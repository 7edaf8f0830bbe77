"""The loop over steps: what it writes down, when checkpoints are due, where it goes on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from msrrec.config import TrainConfig
from msrrec.training.examples import Encoded, ExampleSet
from msrrec.training.learner import Learner
from msrrec.training.model import add_lora
from msrrec.training.worker import MetricsRow, describe, run_steps

SETTINGS: dict[str, Any] = {
    "global_batch_size": 4,
    "num_epochs": 5,
    "learning_rate": 1e-2,
    "lora": {"dropout": 0.1},
    "log_every_steps": 3,
    "checkpoint_every_steps": 4,
}


@pytest.fixture(scope="module")
def examples() -> ExampleSet:
    """Seven, so two steps an epoch."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 40, 9 + n).tolist() for n in range(7)]
    return ExampleSet.collect(Encoded(i, [0] * 4 + [1] * (len(i) - 6) + [2] * 2, 0) for i in ids)


def make_learner(**settings: Any) -> Learner:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_attention_heads=2, **shape))
    config = TrainConfig(**(SETTINGS | settings))
    return Learner(add_lora(base, config), config, bfloat16=False)


def steps(
    examples: ExampleSet, validation: ExampleSet | None, rows: list[MetricsRow], **settings: Any
) -> Iterator[tuple[int, bool]]:
    return run_steps(make_learner(**settings), examples, validation, 0, rows)


def test_lines_and_checkpoints_come_as_configured_and_at_the_end(examples: ExampleSet) -> None:
    rows: list[MetricsRow] = []
    kept = [number for number, keeps in steps(examples, None, rows) if keeps]
    assert kept == [4, 8, 10]
    assert [(row["step"], row["epoch"]) for row in rows] == [(3, 1), (6, 2), (9, 4), (10, 4)]
    assert "validation_loss" not in rows[-1]
    assert describe(rows).startswith(f"loss {rows[-1]['loss']:.3f} loss_rea ")


def test_a_validation_leaves_training_alone_and_brings_a_checkpoint(examples: ExampleSet) -> None:
    plain: list[MetricsRow] = []
    rows: list[MetricsRow] = []
    list(steps(examples, None, plain, log_every_steps=1))
    found = steps(examples, examples, rows, log_every_steps=1, validate_every_steps=3)
    assert [number for number, keeps in found if keeps] == [3, 4, 6, 8, 9, 10]
    assert [row["step"] for row in rows if "validation_loss" in row] == [3, 6, 9, 10]
    assert [row["loss"] for row in rows] == [row["loss"] for row in plain]
    assert rows[-1]["validation_loss"] < rows[2]["validation_loss"]  # it learns these very examples


def test_training_ends_when_validation_stalls(examples: ExampleSet) -> None:
    rows: list[MetricsRow] = []
    settings = {"learning_rate": 1e-30, "validate_every_steps": 2, "patience": 2}
    assert [n for n, _ in steps(examples, examples, rows, **settings)][-1] == 6
    assert [row["step"] for row in rows] == [2, 3, 4, 6]


def test_going_on_from_any_step_ends_with_the_same_weights(examples: ExampleSet) -> None:
    whole = make_learner()
    list(run_steps(whole, examples, None, 0, []))
    for done in (1, 4, 9):
        stopped = make_learner()
        for number, _ in run_steps(stopped, examples, None, 0, []):
            if number == done:
                break
        numbers = [number for number, _ in run_steps(stopped, examples, None, done, [])]
        assert numbers == list(range(done + 1, 11))
        for ours, expected in zip(stopped.weights, whole.weights, strict=True):
            assert torch.equal(ours, expected)
