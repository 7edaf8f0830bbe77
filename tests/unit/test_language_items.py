"""Vectors of items beside tokens, as LLaRA learns them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msrrec.baselines.language.generation import load_tuned
from msrrec.baselines.language.items import (
    ITEMS_FROM,
    HybridEmbedding,
    draws_hybrid,
)
from msrrec.training.checkpoint import load_checkpoint, save_checkpoint
from msrrec.training.loop import run_name
from tests.support.language import BATCH, ITEMS, make_base, make_examples, make_job, make_learner

torch.set_num_threads(1)


def test_the_share_of_hybrid_steps_grows_with_the_steps_done() -> None:
    total = 4000
    drawn = [draws_hybrid(step, total, seed=0) for step in range(total)]
    # Of the steps of each quarter, 1/8, 3/8, 5/8 and 7/8 are hybrid on average.
    shares = [float(np.mean(drawn[n * 1000 : (n + 1) * 1000])) for n in range(4)]
    assert shares == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.06)
    assert drawn[-1]
    assert drawn == [draws_hybrid(step, total, seed=0) for step in range(total)]


def test_a_hybrid_prompt_reads_the_projected_vector_and_a_text_one_the_placeholder() -> None:
    embedding = make_job().load_base(on_gpu=False).get_input_embeddings()
    assert isinstance(embedding, HybridEmbedding)
    ids = torch.tensor([[3, ITEMS_FROM + 2, 5]])
    vector = embedding.projector(torch.from_numpy(ITEMS[2]))
    found = embedding(ids)[0]
    torch.testing.assert_close(found[1], vector)
    torch.testing.assert_close(found[[0, 2]], embedding.tokens.weight[[3, 5]])
    embedding.is_hybrid = False
    torch.testing.assert_close(embedding(ids)[0], embedding.tokens.weight[[3, 7, 5]])


def test_only_projector_and_lora_have_gradients_and_the_vectors_stay() -> None:
    learner = make_learner(make_job(curriculum=False))
    examples = make_examples()
    for step in range(2):  # LoRA's A has none in the first step, as B is zero
        learner.step(step, examples, BATCH, 1e-2)
    names = {
        name
        for name, weight in learner.model.named_parameters()
        if weight.grad is not None and weight.grad.abs().max() > 0
    }
    assert any("projector" in name for name in names)
    assert all("lora_" in name or "projector" in name for name in names)
    trained = {name for name, weight in learner.model.named_parameters() if weight.requires_grad}
    assert names == trained
    np.testing.assert_array_equal(learner.embedding.items.numpy(), ITEMS)
    tokens = learner.embedding.tokens.weight
    torch.testing.assert_close(tokens, make_base().get_input_embeddings().weight, rtol=0, atol=0)


@pytest.mark.parametrize("world_size", [1, 2])
def test_text_steps_leave_the_projector_as_it_is(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: None)
    learner, examples = make_learner(make_job()), make_examples()
    learner.world_size = world_size
    module = "msrrec.baselines.language.items.draws_hybrid"

    def copy(weights: list[Any]) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in weights]

    def run(step: int, *, hybrid: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        monkeypatch.setattr(module, lambda *_: hybrid)
        learner.step(step, examples, BATCH, 1e-2)
        return copy(learner.projector), copy(learner.matrices)

    projector, matrices = run(0, hybrid=True)  # so that AdamW has momentum of it
    later_projector, later_matrices = run(1, hybrid=False)
    assert all(torch.equal(a, b) for a, b in zip(projector, later_projector, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(matrices, later_matrices, strict=True))
    moved, _ = run(2, hybrid=True)
    assert not any(torch.equal(a, b) for a, b in zip(projector, moved, strict=True))


def test_fast_and_plain_layers_learn_the_same_from_items() -> None:
    examples, found = make_examples(), []
    for is_fast in (True, False):
        learner = make_learner(make_job(curriculum=False))
        assert learner.head is not None
        if not is_fast:
            learner.head = None
            for layer in learner.model.get_base_model().get_decoder().layers:
                del layer.forward
        learner.sum_gradients(examples, BATCH)
        found.append(torch.cat([w.grad.flatten() for w in learner.projector if w.grad is not None]))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_checkpoint_holds_the_projector_for_training_and_for_answers(tmp_path: Path) -> None:
    job, examples = make_job(curriculum=False), make_examples()
    learner = make_learner(job)
    for step in range(2):
        learner.step(step, examples, BATCH, 1e-2)
    save_checkpoint(str(tmp_path), learner, 2, [])
    other = make_learner(job)
    assert load_checkpoint(str(tmp_path), other)[0] == 2
    assert all(torch.equal(a, b) for a, b in zip(learner.projector, other.projector, strict=True))
    ids = torch.from_numpy(examples.input_ids[:12].astype(np.int64))[None]
    learner.model.eval()
    learner.embedding.is_hybrid = True
    model = load_tuned(job, str(tmp_path), "cpu", ids[0].tolist()).eval()
    base = job.load_base(on_gpu=False).eval()
    with torch.no_grad():
        plain = learner.model.get_base_model()
        plain.set_attn_implementation("sdpa")
        for layer in plain.get_decoder().layers:
            del layer.forward
        expected = plain(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
        assert (base(ids).logits - expected).abs().max() > 1e-2


def test_a_run_is_named_after_what_its_items_are_and_how_they_are_taught() -> None:
    jobs = [
        make_job(),
        make_job(curriculum=False),
        make_job(weight_decay=0.5),
        make_job(total_steps=5),
        replace(make_job(), items=ITEMS + 1),
    ]
    names = [run_name(job, make_examples(), None) for job in (*jobs, make_job())]
    assert len(set(names)) == len(jobs)
    assert names[0] == names[-1]
