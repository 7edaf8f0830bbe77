"""The losses of the sequential baselines.

Shapes: N = supervised positions, V = items, D = size of a vector, K = negatives of a position,
G = groups of consecutive positions that share their negatives.
"""

from typing import Any, Literal

import torch
from torch.nn.functional import embedding, pad, softplus

LossName = Literal["softmax", "binary", "sampled", "gbce"]

NUM_NEGATIVES = 256
"""Negatives of ``sampled`` and ``gbce`` (2508.06450, 2308.07192), fewer in a catalogue with fewer
items. They are drawn uniformly, with replacement."""
POSITIONS_PER_DRAW = 16
"""Number of consecutive positions that share their negatives. The papers draw for every position,
which takes several times as long on processors; one draw for a whole step leaves most items
without a gradient in most steps."""
CALIBRATION = 0.75
"""gBCE's t: 0 is the plain binary loss, 1 has the probabilities of the softmax (2308.07192)."""
CHUNK_VALUES = 1 << 20
"""Number of scores held at once, a few megabytes that fit the CPU's cache."""


class _SoftmaxLoss(torch.autograd.Function):
    """Cross-entropy over all items; the forward pass also computes the gradients, in row chunks.

    The (N, V) scores never exist as a whole: a chunk's probabilities P take their place in one pass
    and give its loss and, in two products, its share of both gradients::

        d loss / d states = P table - table[target]
        d loss / d table  = P' states, less states at each target's row
    """

    @staticmethod
    def forward(
        ctx: Any, states_ND: torch.Tensor, table_VD: torch.Tensor, targets_N: torch.Tensor
    ) -> torch.Tensor:
        grad_states, grad_table = torch.empty_like(states_ND), torch.zeros_like(table_VD)
        total = states_ND.new_zeros(())
        size = max(1, min(CHUNK_VALUES // len(table_VD), len(states_ND)))
        buffer = states_ND.new_empty(size, len(table_VD))
        least = torch.finfo(states_ND.dtype).tiny
        for chunk in range(0, len(states_ND), size):
            rows = slice(chunk, chunk + size)
            states, targets = states_ND[rows], targets_N[rows, None]
            probabilities = buffer[: len(states)]
            torch.mm(states, table_VD.T, out=probabilities)
            torch.softmax(probabilities, 1, out=probabilities)
            total -= probabilities.gather(1, targets).clamp_min(least).log().sum()
            torch.mm(probabilities, table_VD, out=grad_states[rows])
            grad_table.addmm_(probabilities.T, states)
        grad_states -= table_VD[targets_N]
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

    A probability that the data type can't tell from 0 counts as its smallest number, so that a
    target adds at most 87 in float32. The gradients are not bounded so.

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


def sampled_softmax_loss(
    states_ND: torch.Tensor,
    table_VD: torch.Tensor,
    targets_N: torch.Tensor,
    negatives_GK: torch.Tensor,
) -> torch.Tensor:
    """Mean cross-entropy of each target among itself and the negatives.

    A negative that is a position's target does not count there.

    Args:
        states_ND: The network's state before each target.
        table_VD: Vectors of all items.
        targets_N: The targets, as rows of the table.
        negatives_GK: Rows of the table: the first ceil(N / G) positions have the first row's
            negatives, the next ones the second row's.
    """
    positive_N, scores_NK, is_target_NK = _score(states_ND, table_VD, targets_N, negatives_GK)
    scores_NK = scores_NK.masked_fill(is_target_NK, -torch.inf)
    return (torch.cat([positive_N[:, None], scores_NK], 1).logsumexp(1) - positive_N).mean()


def gbce_loss(
    states_ND: torch.Tensor,
    table_VD: torch.Tensor,
    targets_N: torch.Tensor,
    negatives_GK: torch.Tensor,
    calibration: float = CALIBRATION,
) -> torch.Tensor:
    """GSASRec's loss (2308.07192): binary cross-entropy with the target's probability to a power.

    With a share a of the other items drawn as negatives, the power is a(t(1 - 1/a) + 1/a), that is
    1 - t(1 - a), and makes up for the overconfidence that few negatives cause. A negative that is
    a position's target does not count there.

    Args:
        states_ND: The network's state before each target.
        table_VD: Vectors of all items.
        targets_N: The targets, as rows of the table.
        negatives_GK: As in ``sampled_softmax_loss``.
        calibration: The paper's t, in [0, 1].
    """
    positive_N, scores_NK, is_target_NK = _score(states_ND, table_VD, targets_N, negatives_GK)
    num_negatives = negatives_GK.shape[1]
    share = min(num_negatives / max(len(table_VD) - 1, 1), 1.0)
    power = 1.0 - calibration * (1.0 - share)
    against_N = softplus(scores_NK).masked_fill(is_target_NK, 0.0).sum(1)
    return ((power * softplus(-positive_N) + against_N) / (num_negatives + 1)).mean()


def _score(
    states_ND: torch.Tensor,
    table_VD: torch.Tensor,
    targets_N: torch.Tensor,
    negatives_GK: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of the targets, scores of the negatives, and which negatives are the target."""
    positive_N = (states_ND * table_VD[targets_N]).sum(1)
    num_positions, num_groups = len(targets_N), len(negatives_GK)
    size = -(-num_positions // num_groups)
    states_GSD = pad(states_ND, (0, 0, 0, num_groups * size - num_positions))
    states_GSD = states_GSD.view(num_groups, size, -1)
    vectors_GKD = embedding(negatives_GK, table_VD)  # its backward pass is faster than indexing's
    scores_NK = (states_GSD @ vectors_GKD.mT).flatten(0, 1)[:num_positions]
    negatives_NK = negatives_GK.repeat_interleave(size, 0)[:num_positions]
    return positive_N, scores_NK, negatives_NK == targets_N[:, None]


def loss_of(
    name: LossName,
    states_ND: torch.Tensor,
    table_VD: torch.Tensor,
    targets_N: torch.Tensor,
    negatives: torch.Tensor | None,
) -> torch.Tensor:
    """A loss by its name; all but the softmax need negatives, see ``trainer``."""
    if negatives is None:
        return softmax_loss(states_ND, table_VD, targets_N)
    losses = {"binary": binary_loss, "sampled": sampled_softmax_loss, "gbce": gbce_loss}
    return losses[name](states_ND, table_VD, targets_N, negatives)
