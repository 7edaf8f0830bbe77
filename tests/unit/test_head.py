"""The fused head gives the loss and the gradient of ``packed_loss`` on plain logits."""

import pytest
import torch

from msrrec.training import head
from msrrec.training.head import head_loss
from msrrec.training.loss import packed_loss

torch.set_num_threads(1)

ALPHA, BETA = 0.7, 0.3


def make(
    rows: int, vocabulary: int, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden rows, weight, targets, and shares of an example; a quarter of the rows has none."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 16), torch.randn(vocabulary, 16) * scale
    shares = torch.zeros(2, rows)
    shares[0, : rows // 2], shares[1, rows // 2 : rows * 3 // 4] = 2 / rows, 4 / rows
    return hidden, weight, torch.randint(vocabulary, (rows,)), shares


def reference(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, its spans and the gradient in float64."""
    hidden = hidden.double().requires_grad_()
    loss, spans = packed_loss(hidden @ weight.double().t(), targets, shares, ALPHA, BETA)
    return loss, spans, torch.autograd.grad(loss, hidden)[0]


def norm_ratio(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("rows", "vocabulary"), [(37, 50), (280, 128_256)])
def test_loss_and_gradient_equal_those_of_plain_logits(rows: int, vocabulary: int) -> None:
    hidden, weight, targets, shares = make(rows, vocabulary)  # the second in three chunks
    # A probability is divided by a sum of as many terms, added up in as many lanes as the
    # processor has: its roundings grow like a random walk, with the root of their number.
    bar = torch.finfo(torch.float32).eps * vocabulary**0.5
    loss, spans, expected = reference(hidden, weight, targets, shares)
    hidden.requires_grad_()
    ours, our_spans = head_loss(hidden, weight, targets, shares, ALPHA, BETA)
    (gradient,) = torch.autograd.grad(ours / 5, hidden)
    assert ours.item() == pytest.approx(loss.item(), rel=bar)
    torch.testing.assert_close(our_spans.double(), spans, rtol=bar, atol=0)
    assert norm_ratio(gradient * 5, expected) < bar
    assert (gradient[rows * 3 // 4 :] == 0).all()  # rows without a share
    assert weight.grad is None


def test_any_size_of_chunk_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets, shares = make(300, 50)
    results = []
    for rows in (1, 7, 300):
        monkeypatch.setattr(head, "rows_of_chunk", lambda weight, rows=rows: rows)
        x = hidden.clone().requires_grad_()
        loss, _ = head_loss(x, weight, targets, shares, ALPHA, BETA)
        results.append((loss, torch.autograd.grad(loss, x)[0]))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])  # from even odds to near certainty
def test_in_bfloat16_it_is_as_close_as_the_logits_are(scale: float) -> None:
    hidden, weight, targets, shares = make(300, 2000, scale)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    targets[:100] = (hidden @ weight.t())[:100].argmax(-1)
    _, _, expected = reference(hidden, weight, targets, shares)
    loss_of_plain, gradient_of_plain = through_plain_logits(hidden, weight, targets, shares)
    hidden.requires_grad_()
    loss, _ = head_loss(hidden, weight, targets, shares, ALPHA, BETA)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(loss_of_plain, rel=1e-3)
    assert norm_ratio(gradient, expected) < 1.2 * norm_ratio(gradient_of_plain, expected)


def through_plain_logits(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
) -> tuple[float, torch.Tensor]:
    hidden = hidden.detach().requires_grad_()
    loss, _ = packed_loss(hidden @ weight.t(), targets, shares, ALPHA, BETA)
    return loss.item(), torch.autograd.grad(loss, hidden)[0]


def test_a_certain_token_keeps_a_precise_gradient_in_bfloat16() -> None:
    # Logits 8 and 0 over two entries: p = 1 / (1 + e^-8), so p - 1 = -3.3535e-4, which bfloat16
    # numbers near 1, 2^-8 apart, cannot tell from 0.
    hidden = torch.tensor([[1.0]]).bfloat16().requires_grad_()
    weight = torch.tensor([[8.0], [0.0]]).bfloat16()
    shares = torch.tensor([[1.0], [0.0]])
    loss, _ = head_loss(hidden, weight, torch.tensor([0]), shares, 1.0, 0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert loss.item() == pytest.approx(3.3541e-4, rel=5e-3)
    assert hidden.grad.item() == pytest.approx(-8 * 3.3535e-4, rel=5e-3)


def test_an_impossible_token_has_a_finite_loss() -> None:
    weight = torch.tensor([[0.0], [300.0]])
    hidden = torch.ones(1, 1, requires_grad=True)
    loss, _ = head_loss(hidden, weight, torch.tensor([0]), torch.tensor([[1.0], [0.0]]), 1.0, 0.0)
    assert 80 < loss.item() < 90  # the smallest float32's logarithm
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert gradient.item() == pytest.approx(300)
