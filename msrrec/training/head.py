"""The vocabulary projection and the loss of Eq. 1-2, fused, in chunks of supervised rows.

A chunk's probabilities are turned into its gradient at once. So logits and probabilities are held
for one chunk only, and the backward pass needs no further product.

Shapes: S = supervised tokens, C = those of a chunk, E = hidden size, V = vocabulary.
"""

from typing import Any

import torch

_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_ON_GPU = 2**24, 2**27
"""Logits held at once, of two bytes in bfloat16, and as many probabilities."""
_LEAST_ROWS = 64
"""Minimum rows per chunk; with fewer, the weight would be read too often."""


def head_loss(
    hidden_SE: torch.Tensor,
    weight_VE: torch.Tensor,
    targets_S: torch.Tensor,
    shares_2S: torch.Tensor,
    alpha: float,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as ``packed_loss`` on the logits ``hidden @ weight.T``, with the same gradient.

    Args:
        hidden_SE: (S, E). Hidden states before the projection, in the type of its weight.
        weight_VE: (V, E). Frozen; it may be shared with the embedding.
        targets_S: (S,).
        shares_2S: (2, S). As in ``packed_loss``.
        alpha: Weight of the reasoning loss.
        beta: Weight of the recommendation loss.

    Returns:
        The sum of the examples' losses, a scalar; and, detached, the sums of loss_rea and loss_rec,
        shape (2,). Both in float32.
    """
    weights_S = alpha * shares_2S[0] + beta * shares_2S[1]
    losses_S = token_losses(hidden_SE, weight_VE, targets_S)
    return losses_S @ weights_S, shares_2S @ losses_S.detach()


def token_losses(
    hidden_SE: torch.Tensor, weight_VE: torch.Tensor, targets_S: torch.Tensor
) -> torch.Tensor:
    """The negative log-probability of each target, (S,) in float32."""
    losses_S: torch.Tensor = _HeadLosses.apply(hidden_SE, weight_VE, targets_S)  # type: ignore[no-untyped-call]
    return losses_S


class _HeadLosses(torch.autograd.Function):
    """Cross-entropy of each token, in float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_SE: torch.Tensor, weight_VE: torch.Tensor, targets_S: torch.Tensor
    ) -> torch.Tensor:
        grad_SE = torch.empty_like(hidden_SE)
        losses_S = hidden_SE.new_empty(len(targets_S), dtype=torch.float32)
        rows = min(len(targets_S), rows_of_chunk(weight_VE))
        logits, grads = hidden_SE.new_empty((2, rows, len(weight_VE)))  # reused for every chunk
        for start in range(0, len(targets_S), rows):
            chunk = slice(start, start + rows)
            targets_C = targets_S[chunk]
            logits_CV, grad_CV = logits[: len(targets_C)], grads[: len(targets_C)]
            torch.mm(hidden_SE[chunk], weight_VE.t(), out=logits_CV)
            losses_S[chunk] = _differentiate(logits_CV, targets_C, grad_CV)
            torch.mm(grad_CV, weight_VE, out=grad_SE[chunk])
        ctx.save_for_backward(grad_SE)
        return losses_S

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad_SE,) = ctx.saved_tensors
        return (grad_SE * grads[0][:, None]).to(grad_SE.dtype), None, None


def rows_of_chunk(weight_VE: torch.Tensor) -> int:
    """How many rows of logits are held at once; the loss is the same for any number."""
    elements = _CHUNK_ELEMENTS if weight_VE.device.type == "cpu" else _CHUNK_ELEMENTS_ON_GPU
    return max(_LEAST_ROWS, elements // len(weight_VE))


def _differentiate(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, grad_CV: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of each row, (C,) in float32; its gradient is written into ``grad_CV``.

    If p is large, the target's gradient p - 1 is computed as minus the sum of all other
    probabilities, as the difference would lose all its digits in bfloat16.
    """
    torch.softmax(logits_CV, -1, out=grad_CV)
    places = torch.arange(len(targets_C), device=targets_C.device), targets_C
    target_C = grad_CV[places].float()
    grad_CV[places] = 0
    others_C = torch.where(target_C < 0.5, 1 - target_C, grad_CV.sum(-1).float())
    grad_CV[places] = -others_C.to(grad_CV.dtype)
    least = torch.finfo(torch.float32).tiny
    return torch.log1p(others_C / target_C.clamp(min=least))
