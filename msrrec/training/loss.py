"""The weighted loss of the paper's Eq. 1-2, as a readable reference and as training uses it.

Shapes: B = examples, T = tokens, V = vocabulary, S = supervised tokens of a packed row.

For one example with reasoning tokens ``rea`` and recommendation tokens ``rec``::

    loss_rea = mean over rea of -log p(token | tokens before it)        (Eq. 1)
    loss_rec = mean over rec of the same
    loss     = alpha * loss_rea + beta * loss_rec                       (Eq. 2)

The loss of a batch is the mean over its examples. Each span is divided by its own length, so that
long reasoning does not outweigh the answer; the loss of an example without reasoning is ``beta *
loss_rec``.
"""

import torch
from torch.nn.functional import cross_entropy

NOT_SUPERVISED, REASONING, RECOMMENDATION = 0, 1, 2
"""Values of ``segments``."""


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    segments: torch.Tensor,
    alpha: float,
    beta: float,
) -> torch.Tensor:
    """Eq. 1-2, mean over examples; the readable form of what ``packed_loss`` computes.

    Args:
        logits: (B, T, V). Logits at t-1 predict the label at t; this function does the shift.
        labels: (B, T). The input ids.
        segments: (B, T). 0 not supervised, 1 reasoning, 2 recommendation. Nothing predicts the
            first token, so its segment has no effect.
        alpha: Weight of the reasoning loss.
        beta: Weight of the recommendation loss.

    Returns:
        A scalar. Positions that are not supervised get a gradient of exactly zero.
    """
    logits_BTV, labels_BT, segments_BT = logits[:, :-1], labels[:, 1:], segments[:, 1:]
    total = logits.new_zeros((), dtype=_accumulator(logits))
    for logits_TV, labels_T, segments_T in zip(logits_BTV, labels_BT, segments_BT, strict=True):
        for segment, weight in ((REASONING, alpha), (RECOMMENDATION, beta)):
            span = segments_T == segment
            if span.any():
                span_logits = logits_TV[span].to(total.dtype)
                total = total + weight * cross_entropy(span_logits, labels_T[span])
    return total / len(labels)


def packed_loss(
    logits_SV: torch.Tensor,
    targets_S: torch.Tensor,
    shares_2S: torch.Tensor,
    alpha: float,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 1-2 from supervised positions only, summed over the row's examples.

    Args:
        logits_SV: (S, V). Row n predicts target n.
        targets_S: (S,).
        shares_2S: (2, S). For each token 1 / length of its span, in the row of its segment
            (reasoning, recommendation); 0 in the other row.
        alpha: Weight of the reasoning loss.
        beta: Weight of the recommendation loss.

    Returns:
        The sum of the examples' losses, a scalar; and, detached, the sums of loss_rea and loss_rec,
        shape (2,). Divided by the number of examples in the whole batch over all workers, the first
        is the mean of Eq. 2.
    """
    logits_SV = logits_SV.to(_accumulator(logits_SV))
    losses_S = cross_entropy(logits_SV, targets_S, reduction="none")
    spans_2 = shares_2S.to(losses_S.dtype) @ losses_S
    return alpha * spans_2[0] + beta * spans_2[1], spans_2.detach()


def _accumulator(logits: torch.Tensor) -> torch.dtype:
    """The type for sums, at least float32, so that bfloat16 logits lose no more precision."""
    return torch.promote_types(logits.dtype, torch.float32)
