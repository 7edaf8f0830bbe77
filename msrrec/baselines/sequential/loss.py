"""The losses of the sequential baselines.

Shapes: N = supervised positions, V = items, D = size of a vector.
"""

from typing import Any

import torch
from torch.nn.functional import softplus

CHUNK_VALUES = 1 << 20
"""Number of scores held at once, a few megabytes that fit the CPU's cache."""


class _SoftmaxLoss(torch.autograd.Function):
    """Cross-entropy over all items; the forward pass also computes the gradients, in row chunks.

    The (N, V) scores never exist as a whole: a chunk's exponentials give its loss and, in two
    products, its share of both gradients. With Z the sum of a row's exponentials E::

        d loss / d states = (E / Z) table - table[target]
        d loss / d table  = (E / Z)' states, less states at each target's row
    """

    @staticmethod
    def forward(
        ctx: Any, states_ND: torch.Tensor, table_VD: torch.Tensor, targets_N: torch.Tensor
    ) -> torch.Tensor:
        grad_states, grad_table = torch.empty_like(states_ND), torch.zeros_like(table_VD)
        total = states_ND.new_zeros(())
        size = max(1, CHUNK_VALUES // len(table_VD))
        own_ND = table_VD[targets_N]
        for chunk in range(0, len(states_ND), size):
            rows = slice(chunk, chunk + size)
            states = states_ND[rows]
            scores = states @ table_VD.T
            highest = scores.amax(1, keepdim=True)
            sums = scores.sub_(highest).exp_().sum(1, keepdim=True)
            total += (sums.log() + highest).sum()
            grad_states[rows] = (scores @ table_VD) / sums
            grad_table.addmm_(scores.T, states / sums)
        total -= (states_ND * own_ND).sum()
        grad_states -= own_ND
        grad_table.index_add_(0, targets_N, states_ND, alpha=-1)
        ctx.save_for_backward(grad_states, grad_table)
        return total / len(states_ND)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_states, grad_table = ctx.saved_tensors
        scale = grads[0] / len(grad_states)
        return grad_states * scale, grad_table * scale, None


def softmax_loss(
    states_ND: torch.Tensor, table_VD: torch.Tensor, targets_N: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the targets among all items.

    Args:
        states_ND: The network's state before each target.
        table_VD: Vectors of all items; a score is the product of state and vector.
        targets_N: The targets, as rows of the table.
    """
    loss: torch.Tensor = _SoftmaxLoss.apply(states_ND, table_VD, targets_N)  # type: ignore[no-untyped-call]
    return loss


def binary_loss(
    states_ND: torch.Tensor,
    table_VD: torch.Tensor,
    targets_N: torch.Tensor,
    negatives_N: torch.Tensor,
) -> torch.Tensor:
    """SASRec's own loss (Kang and McAuley 2018, Eq. 7): each target against one negative."""
    positive = (states_ND * table_VD[targets_N]).sum(1)
    negative = (states_ND * table_VD[negatives_N]).sum(1)
    return (softplus(-positive) + softplus(negative)).mean()
