"""Eq. 1-2 against hand-computed values and a plain loop."""

import math

import pytest
import torch

import msrrec
from msrrec.training.loss import packed_loss, weighted_loss

ALPHA, BETA = 0.7, 0.3
SEGMENTS = torch.tensor(
    [
        [0, 0, 1, 1, 1, 1, 1, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, 2, 2],  # behaviour-only
        [0, 1, 2, 2, 2, 2, 2, 2, 0],
    ]
)


def make_batch(vocabulary: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = tuple(SEGMENTS.shape)
    logits = torch.randn((*shape, vocabulary), generator=generator, dtype=torch.float64)
    return logits, torch.randint(vocabulary, shape, generator=generator)


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    total = 0.0
    for b in range(len(labels)):
        for segment, weight in ((1, ALPHA), (2, BETA)):
            losses = [
                -math.log(logits[b, t - 1].softmax(-1)[labels[b, t]].item())
                for t in range(1, labels.shape[1])
                if SEGMENTS[b, t] == segment
            ]
            total += weight * sum(losses) / len(losses) if losses else 0.0
    return total / len(labels)


def test_the_loss_equals_a_plain_loop() -> None:
    logits, labels = make_batch()
    loss = weighted_loss(logits, labels, SEGMENTS, ALPHA, BETA)
    assert loss.item() == pytest.approx(plain_loss(logits, labels), abs=1e-9)
    in_float32 = msrrec.weighted_loss(logits.float(), labels, SEGMENTS, ALPHA, BETA)
    assert in_float32.item() == pytest.approx(plain_loss(logits, labels), abs=1e-6)


def test_each_span_is_divided_by_its_own_length() -> None:
    # Two entries; the token that comes is e^x times likelier than the other, so its loss is
    # log(1 + e^-x). Reasoning: x = 0 three times, mean log 2. Recommendation: x = 1 once.
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]])
    labels, segments = torch.zeros(1, 5, dtype=torch.long), torch.tensor([[0, 1, 1, 1, 2]])
    expected = 0.7 * math.log(2) + 0.3 * math.log(1 + math.exp(-1))
    assert weighted_loss(logits, labels, segments, 0.7, 0.3).item() == pytest.approx(expected)


def test_a_behaviour_only_example_carries_the_recommendation_loss_alone() -> None:
    logits, labels = torch.zeros(1, 4, 8), torch.zeros(1, 4, dtype=torch.long)
    segments = torch.tensor([[0, 0, 2, 2]])
    loss = weighted_loss(logits, labels, segments, ALPHA, BETA)
    assert loss.item() == pytest.approx(0.3 * math.log(8))


def test_tokens_without_supervision_have_a_gradient_of_exactly_zero() -> None:
    logits, labels = make_batch()
    logits[0, 0] = float("inf")  # even a broken prompt position must not reach the loss
    logits.requires_grad_()
    weighted_loss(logits, labels, SEGMENTS, ALPHA, BETA).backward()
    assert logits.grad is not None
    predicts_nothing = torch.ones_like(SEGMENTS, dtype=torch.bool)
    predicts_nothing[:, :-1] = SEGMENTS[:, 1:] == 0
    assert (logits.grad[predicts_nothing] == 0).all()
    assert (logits.grad[~predicts_nothing].abs().sum(-1) > 0).all()


def test_the_loss_of_supervised_positions_alone_is_the_same_with_the_same_gradient() -> None:
    logits, labels = make_batch()
    logits.requires_grad_()
    reference = weighted_loss(logits, labels, SEGMENTS, ALPHA, BETA)
    (expected,) = torch.autograd.grad(reference, logits)

    kept = SEGMENTS[:, 1:] > 0
    spans = torch.stack([SEGMENTS == 1, SEGMENTS == 2]).double()
    shares = (spans / spans.sum(-1, keepdim=True).clamp(min=1))[:, :, 1:][:, kept]
    total, sums = packed_loss(logits[:, :-1][kept], labels[:, 1:][kept], shares, ALPHA, BETA)
    (gradient,) = torch.autograd.grad(total / 3, logits)

    assert (total / 3).item() == pytest.approx(reference.item(), abs=1e-12)
    assert (ALPHA * sums[0] + BETA * sums[1]).item() == pytest.approx(total.item(), abs=1e-12)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_low_precision_logits_are_summed_in_float32() -> None:
    logits, labels = make_batch()
    rough = logits.bfloat16()
    loss = weighted_loss(rough, labels, SEGMENTS, ALPHA, BETA)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain_loss(rough.double(), labels), abs=1e-6)
