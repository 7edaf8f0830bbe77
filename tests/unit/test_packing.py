"""Packed rows give what their examples give one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from msrrec.training.attention import Kernel, attend, packed_attention, use_packed_attention
from msrrec.training.loss import packed_loss, weighted_loss
from msrrec.training.packing import COARSE, EXACT, Pair, RoundedSizes, pack, span_shares

torch.set_num_threads(1)  # models this small only lose by more, above all on a busy machine

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,  # far from even attention, so that positions and masks matter
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
}


def make_pairs(*spans: tuple[int, int, int]) -> list[Pair]:
    """Random examples with so many prompt, reasoning and recommendation tokens."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 50, sum(span)).astype(np.int32),
            np.repeat([0, 1, 2], span).astype(np.int8),
        )
        for span in spans
    ]


def test_a_row_holds_the_examples_one_after_another() -> None:
    ids, segments = np.array([5, 6, 7, 8], np.int32), np.array([0, 1, 1, 2], np.int8)
    row = pack([(ids, segments), (ids[:2], np.array([0, 2], np.int8))])
    assert row.input_ids.tolist() == [[5, 6, 7, 8, 5, 6]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert row.lengths == (4, 2)
    assert row.rows.tolist() == [0, 1, 2, 4]
    assert row.targets.tolist() == [6, 7, 8, 6]
    assert row.shares.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 1, 1]]
    assert row.starts == (0, 0)


def test_tails_begin_where_logits_are_needed_first() -> None:
    prompts_of_3_and_2 = make_pairs((3, 0, 2), (2, 1, 1))
    row = pack(prompts_of_3_and_2)
    assert row.starts == (2, 1)  # each place predicts the next token
    assert row.tails.tolist() == [2, 3, 4, 6, 7, 8]
    assert row.rows.tolist() == [2, 3, 6, 7]
    assert row.rows_of_tails.tolist() == [0, 1, 3, 4]
    coarse = pack(prompts_of_3_and_2, sizes=RoundedSizes(example=2, row=16, supervised=8))
    assert coarse.lengths == (6, 4, 6)
    assert coarse.starts == (2, 0, 6)  # rounded down; the tokens that fill the row have none
    assert coarse.tails.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert coarse.tails[coarse.rows_of_tails].tolist() == coarse.rows.tolist()
    assert coarse.rows.tolist() == [2, 3, 7, 8, 8, 8, 8, 8]
    assert not coarse.shares[:, 4:].any()


def test_shares_of_a_span_sum_to_one_and_of_a_missing_one_to_zero() -> None:
    shares = span_shares(np.array([0, 1, 1, 1, 2, 2], np.int8))
    np.testing.assert_allclose(shares.sum(1), [1, 1])
    np.testing.assert_allclose(span_shares(np.array([0, 2], np.int8)).sum(1), [0, 1])


@pytest.mark.parametrize("sizes", [EXACT, COARSE], ids=["exact", "coarse"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_loss_and_gradients_equal_those_of_single_examples(
    name: str, sizes: RoundedSizes
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    # Longer than two blocks of the attention, an odd rest, and a behaviour-only example.
    pairs = make_pairs((150, 120, 7), (3, 1, 1), (40, 0, 5))
    expected = torch.zeros(())
    for ids, segments in pairs:
        tokens = torch.from_numpy(ids).long()[None]
        logits = model(input_ids=tokens).logits  # torch's own attention, one example
        expected = expected + weighted_loss(
            logits, tokens, torch.from_numpy(segments)[None], 0.7, 0.3
        )
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    assert use_packed_attention(model, "blocked")
    row = pack(pairs, sizes=sizes)
    logits_SV = model(
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        logits_to_keep=row.rows,
        sequence_lengths=row.lengths,
    ).logits[0]
    assert len(logits_SV) == (134 if sizes is EXACT else 160)  # 120 + 7 + 1 + 1 + 5
    loss, _ = packed_loss(logits_SV, row.targets, row.shares, 0.7, 0.3)
    packed_gradients = torch.autograd.grad(loss, list(model.parameters()))

    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for ours, theirs in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_rounding_up_adds_tokens_that_nothing_learns_from() -> None:
    pairs = make_pairs((3, 2, 1), (2, 0, 1))
    row = pack(pairs, sizes=RoundedSizes(example=4, row=16, supervised=8))
    assert row.lengths == (8, 4, 4)
    assert row.input_ids[0, :6].tolist() == pairs[0][0].tolist()
    assert row.input_ids[0, 8:11].tolist() == pairs[1][0].tolist()
    assert row.position_ids[0].tolist() == [*range(8), *range(4), *range(4)]
    exact = pack(pairs)
    assert row.targets[:4].tolist() == exact.targets.tolist()
    assert torch.equal(row.shares[:, :4], exact.shares)
    assert len(row.rows) == 8
    assert not row.shares[:, 4:].any()


def test_an_example_does_not_see_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 9, 4, generator=generator) for _ in range(3))
    before, _ = packed_attention(torch.nn.Identity(), query, key, value, None, None, (5, 4))
    key[:, :, :5], value[:, :, :5] = 7.0, 7.0
    after, _ = packed_attention(torch.nn.Identity(), query, key, value, None, None, (5, 4))
    assert torch.equal(before[:, 5:], after[:, 5:])
    assert not torch.equal(before[:, :5], after[:, :5])


@pytest.mark.parametrize("kernel", ["blocked", "sdpa"])
def test_some_queries_get_what_all_would(kernel: Kernel) -> None:
    lengths, starts = (200, 7, 33), (130, 7, 0)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(h, 240, 8, generator=generator) for h in (4, 2, 2))
    asks = torch.tensor([*range(130, 200), *range(207, 240)])
    ours = attend(q[:, asks], k, v, lengths, starts, 0.3, kernel)
    full = attend(q, k, v, lengths, (0, 0, 0), 0.3, "sdpa")
    torch.testing.assert_close(ours, full[asks], atol=1e-6, rtol=1e-5)


def test_blocked_attention_has_the_gradient_of_torchs() -> None:
    lengths, starts = (200, 7, 33), (130, 7, 0)
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 103, 8), (2, 240, 8), (2, 240, 8))
    leaves = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    upstream = torch.randn(103, 4, 8, generator=generator)
    ours, theirs = (
        torch.autograd.grad(attend(*leaves, lengths, starts, 0.3, kernel), leaves, upstream)  # type: ignore[arg-type]
        for kernel in ("blocked", "sdpa")
    )
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-4)
    assert (ours[1][:, 200:207] == 0).all()  # no query of the second example


def test_models_with_a_sliding_window_keep_their_own_attention() -> None:
    config = Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    model = Qwen3ForCausalLM(config)
    assert not use_packed_attention(model, "blocked")
    assert model.config._attn_implementation == "sdpa"
