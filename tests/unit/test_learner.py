"""An optimizer step is the same whatever the packing, the workers and the restarts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from msrrec.config import TrainConfig
from msrrec.errors import ModelError
from msrrec.training import learner as learner_module
from msrrec.training.checkpoint import load_checkpoint, save_checkpoint
from msrrec.training.examples import Encoded, ExampleSet
from msrrec.training.learner import Learner
from msrrec.training.loss import weighted_loss
from msrrec.training.model import add_lora
from msrrec.training.schedule import iter_batches, learning_rate, num_steps, share_of_worker
from tests.support.training import SHAPE

BATCH = np.array([4, 0, 6, 2, 5])

torch.set_num_threads(1)  # models this small only lose by more, above all on a busy machine


FAST = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, tied head": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama, biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
}
PLAIN = {
    "gemma2: soft-capping, sliding window": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE)),
    "gemma: packed, but other norms": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE)),
    "gpt2: no gates, learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=40,
            n_embd=16,
            n_layer=2,
            n_head=2,
            attn_pdrop=0,
            resid_pdrop=0,
            embd_pdrop=0,
            initializer_range=0.5,
        )
    ),
    "mistral: sliding window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)),
}


def make_base(name: str = "llama") -> Any:
    torch.manual_seed(1)
    return (FAST | PLAIN)[name]()


def make_examples() -> ExampleSet:
    """Seven examples of 11 to 167 tokens, every third behaviour-only."""
    rng = np.random.default_rng(0)
    encoded = []
    for n in range(7):
        spans = (5 + 25 * n, 0 if n % 3 == 2 else 4 + n, 2 + n % 2)
        ids = rng.integers(0, 40, sum(spans)).tolist()
        encoded.append(Encoded(ids, np.repeat([0, 1, 2], spans).tolist(), 0))
    return ExampleSet.collect(encoded)


def make_model(config: TrainConfig, name: str = "llama") -> Any:
    model = add_lora(make_base(name), config)
    with torch.no_grad():  # LoRA's B begins at zero, which would hide the gradient of A
        torch.manual_seed(2)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1)
    return model


def make_learner(
    rank: int = 0, world_size: int = 1, name: str = "llama", **settings: Any
) -> Learner:
    config = TrainConfig(**({"learning_rate": 1e-2} | settings))
    model = make_model(config, name)
    return Learner(model, config, bfloat16=False, rank=rank, world_size=world_size)


def gradient(learner: Learner, batch: np.ndarray[Any, Any] = BATCH) -> torch.Tensor:
    learner.sum_gradients(make_examples(), batch)
    return torch.cat([part.flatten() for part in learner.gradients])


def freeze_in(dtype: torch.dtype, model: Any) -> Any:
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(dtype)
    return model


def reference(
    name: str, dtype: torch.dtype = torch.float32, *, bfloat16: bool = False
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the readable loss on a padded batch, by transformers and PEFT alone."""
    model = freeze_in(dtype, make_model(TrainConfig(), name))
    rows = [make_examples()[index] for index in BATCH]
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids_BT, segments_BT, mask_BT = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    for n, (ids, segments) in enumerate(rows):
        ids_BT[n, : len(ids)] = torch.from_numpy(ids)
        segments_BT[n, : len(ids)] = torch.from_numpy(segments)
        mask_BT[n, : len(ids)] = 1
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    loss = weighted_loss(logits, ids_BT, segments_BT, 0.7, 0.3)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"attention": "sdpa"}])
@pytest.mark.parametrize("name", [*FAST, *PLAIN])
def test_the_gradient_is_that_of_the_reference_loss_on_a_padded_batch(
    name: str, settings: dict[str, Any]
) -> None:
    learner = make_learner(name=name, micro_batch_size=3, **settings)
    assert (learner.head is not None) == (name in FAST)
    loss, expected = reference(name)
    assert_same(gradient(learner), expected)
    assert learner.sum_gradients(make_examples(), BATCH).loss == pytest.approx(loss, abs=1e-5)
    assert expected.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["llama", "llama, biases", "llama, tied head", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_bfloat16_are_as_close_to_float32_as_those_of_autocast(
    name: str, dtype: torch.dtype
) -> None:
    """Within a half, and whatever the type that the frozen weights come in."""
    _, exact = reference(name)
    _, rounded = reference(name, dtype, bfloat16=True)
    config = TrainConfig(micro_batch_size=3)
    learner = Learner(freeze_in(dtype, make_model(config, name)), config, bfloat16=True)
    assert learner.head is not None
    ours = gradient(learner)
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() < 1.5 * (rounded - exact).norm()


def test_dropout_and_partial_lora_take_the_plain_way() -> None:
    assert make_learner(lora={"dropout": 0.1}).head is None
    from peft import LoraConfig, get_peft_model

    base = get_peft_model(make_base(), LoraConfig(target_modules=["q_proj"]))
    assert Learner(base, TrainConfig(), bfloat16=False).head is None


def test_the_fast_layers_leave_names_and_files_to_peft() -> None:
    plain = make_model(TrainConfig()).state_dict()
    assert make_learner().model.state_dict().keys() == plain.keys()


def test_what_follows_the_supervised_tokens_has_no_effect() -> None:
    """Neither on the loss nor on any gradient; nor has the text of other examples."""
    ids, segments = make_examples()[4]
    longer = Encoded([*ids.tolist(), 3, 1, 2], [*segments.tolist(), 0, 0, 0], 0)
    short = Encoded(ids.tolist(), segments.tolist(), 0)
    results = []
    for encoded in (short, longer):
        learner = make_learner()
        loss = learner.sum_gradients(ExampleSet.collect([encoded]), np.array([0])).loss
        results.append((loss, torch.cat([w.grad.flatten() for w in learner.weights])))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    assert_same(results[1][1], results[0][1])


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for rounding in float32."""
    assert (ours - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("size", [1, 2, 5, 32])
def test_any_micro_batch_size_gives_the_same_gradient(size: int) -> None:
    one = gradient(make_learner(micro_batch_size=3))
    torch.testing.assert_close(
        gradient(make_learner(micro_batch_size=size)), one, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 1}, {"strategy": "fsdp"}])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_gradients_of_all_workers_sum_to_that_of_one(
    world_size: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: None)
    monkeypatch.setattr(learner_module, "shard_layers", lambda *arguments: None)
    expected = gradient(make_learner())  # 8 workers for 5 examples: some have none
    learners = [make_learner(rank, world_size, **settings) for rank in range(world_size)]
    total = sum(gradient(learner) for learner in learners)
    assert isinstance(total, torch.Tensor)
    torch.testing.assert_close(total, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_sharded_workers_pass_through_the_layers_equally_often(
    world_size: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, "shard_layers", lambda *arguments: None)
    for batch in (BATCH, BATCH[:3], BATCH[:1]):
        passes = []
        for rank in range(world_size):
            learner = make_learner(rank, world_size, strategy="fsdp", micro_batch_size=size)
            passes.append(len(list(learner.micro_batches(make_examples(), batch))))
        assert len(set(passes)) == 1
        assert passes[0] == -(-len(batch) // (world_size * size))


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gpt2: no gates, learned positions", "mistral: sliding window"]
)
def test_token_logprobs_are_those_of_transformers(name: str) -> None:
    learner, examples = make_learner(name=name, lora={"dropout": 0.0}), make_examples()
    plain = make_model(TrainConfig(), name).eval()
    for index in (0, 2, 6):
        ids, segments = examples[index]
        with torch.no_grad():
            logits = plain(input_ids=torch.from_numpy(ids)[None].long()).logits[0]
        places = np.flatnonzero(segments)
        expected = logits.log_softmax(-1)[places - 1, ids[places]]
        ours = learner.token_logprobs((ids, segments))
        assert ours == pytest.approx(expected.tolist(), abs=1e-5)


def test_losses_are_means_over_the_examples_that_have_them() -> None:
    result = make_learner().sum_gradients(make_examples(), np.array([2, 5]))  # behaviour-only
    assert result.loss_rea is None
    assert result.loss == pytest.approx(0.3 * result.loss_rec)
    mixed = make_learner().sum_gradients(make_examples(), np.array([0, 1, 2]))
    assert mixed.loss_rea is not None
    assert mixed.loss == pytest.approx(0.7 * mixed.loss_rea * 2 / 3 + 0.3 * mixed.loss_rec)


def test_what_is_learned_beside_an_example_adds_to_its_loss_and_takes_no_place() -> None:
    purchase = Encoded([5, 6, 7, 8], [0, 0, 2, 2], 0)
    facts = Encoded([9, 3, 4], [0, 1, 1], 0, is_beside=True)
    other = Encoded([1, 2, 3], [0, 0, 2], 0)
    found = make_learner().sum_gradients(
        ExampleSet.collect([purchase, facts, other]), np.array([0, 1])
    )
    alone = [
        make_learner().sum_gradients(ExampleSet.collect([part]), np.array([0]))
        for part in (purchase, replace(facts, is_beside=False), other)
    ]
    assert found.loss == pytest.approx(sum(part.loss for part in alone) / 2)
    assert found.loss_rea == pytest.approx(alone[1].loss_rea)
    assert found.loss_rec == pytest.approx((alone[0].loss_rec + alone[2].loss_rec) / 2)
    assert (found.num_examples, found.num_tokens) == (2, 10)


def run(learner: Learner, begin: int, end: int, examples: ExampleSet) -> None:
    config = learner.config
    total = num_steps(len(examples), config)
    for step, (_, batch) in list(enumerate(iter_batches(len(examples), config)))[begin:end]:
        learner.step(step, examples, batch, learning_rate(step, total, config))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, dropout: float
) -> None:
    examples = make_examples()
    settings = {"global_batch_size": 3, "num_epochs": 3, "lora": {"dropout": dropout}}
    undisturbed = make_learner(**settings)
    run(undisturbed, 0, 9, examples)

    killed, rows = make_learner(**settings), [{"step": 4, "loss": 1.5}]
    run(killed, 0, 4, examples)
    save_checkpoint(str(tmp_path), killed, 4, rows)
    resumed = make_learner(**settings)
    assert load_checkpoint(str(tmp_path), resumed) == (4, rows)
    run(resumed, 4, 9, examples)
    for ours, theirs in zip(resumed.weights, undisturbed.weights, strict=True):
        assert torch.equal(ours, theirs)


def test_dropout_follows_from_the_step() -> None:
    learner = make_learner(lora={"dropout": 0.5})
    losses = [learner.step(step, make_examples(), BATCH, 0.0).loss for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_training_lowers_the_loss() -> None:
    learner, examples = make_learner(num_epochs=20, global_batch_size=7), make_examples()
    before = learner.sum_gradients(examples, np.arange(7)).loss
    run(learner, 0, 20, examples)
    assert learner.sum_gradients(examples, np.arange(7)).loss < before - 0.1


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    learner = make_learner()
    with torch.no_grad():
        learner.weights[0].fill_(float("nan"))
    with pytest.raises(ModelError, match=r"step 3: the loss is nan.*train\.learning_rate"):
        learner.step(3, make_examples(), BATCH, 1e-4)


def test_every_epoch_sees_every_example_once_in_another_order() -> None:
    config = TrainConfig(num_epochs=2, global_batch_size=4, seed=3)
    batches = list(iter_batches(10, config))
    assert [len(batch) for _, batch in batches] == [4, 4, 2, 4, 4, 2]
    assert [epoch for epoch, _ in batches] == [0, 0, 0, 1, 1, 1]
    first, second = (np.concatenate([b for e, b in batches if e == epoch]) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert num_steps(10, config) == 6
    again = list(iter_batches(10, config))
    assert all((a == b).all() for (_, a), (_, b) in zip(batches, again, strict=True))


def test_workers_share_a_batch_by_length() -> None:
    lengths = np.array([10, 70, 20, 60, 30])
    batch = np.array([0, 1, 2, 3, 4])
    assert share_of_worker(batch, lengths, 0, 2).tolist() == [1, 4, 0]
    assert share_of_worker(batch, lengths, 1, 2).tolist() == [3, 2]


def test_the_learning_rate_rises_to_its_peak_and_falls_on_a_cosine() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_ratio=0.2)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])  # 2 steps of warm-up, then cos(0) = 1
    assert rates[6] == pytest.approx(0.5)  # half of the 8 steps after it
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[9] < 0.05


@pytest.mark.parametrize("name", ["llama", "gpt2: no gates, learned positions"])
def test_validation_gives_the_loss_without_dropout_and_changes_nothing(name: str) -> None:
    examples = make_examples()
    plain, dropping = (make_learner(name=name, lora={"dropout": p}) for p in (0.0, 0.5))
    before = [weight.clone() for weight in dropping.weights]
    expected = plain.sum_gradients(examples, np.arange(len(examples))).loss
    assert dropping.mean_loss(examples) == pytest.approx(expected, rel=1e-6)
    assert all(weight.grad is None for weight in dropping.weights)
    assert all(torch.equal(a, b) for a, b in zip(before, dropping.weights, strict=True))
