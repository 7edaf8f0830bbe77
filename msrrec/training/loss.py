"""The weighted loss of the paper's Eq. 1-2, as a readable reference and as training uses it.

Shapes: B = examples, T = tokens, V = vocabulary, S = supervised tokens of a packed row.

For one example with reasoning tokens ``rea`` and recommendation tokens ``rec``::

    loss_rea = mean over rea of -log p(token | tokens before it)        (Eq. 1)
    loss_rec = mean over rec of the same
    loss     = alpha * loss_rea + beta * loss_rec                       (Eq. 2)

A batch has the mean of its examples' losses. Each span is divided by its own length, so long
reasoning does not drown the answer; an example without reasoning has ``beta * loss_rec`` alone.
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
    """Eq. 1-2, mean over examples; the readable form that ``packed_loss`` equals.

    Args:
        logits: (B, T, V). Those at t-1 predict the label at t; the shift is made here.
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
    """Eq. 1-2 from the supervised positions alone, summed over the row's examples.

    Args:
        logits_SV: (S, V). Each row predicts the target beside it.
        targets_S: (S,).
        shares_2S: (2, S). 1 / length of the token's own span in the row of its segment (reasoning,
            recommendation), 0 in the other.
        alpha: Weight of the reasoning loss.
        beta: Weight of the recommendation loss.

    Returns:
        The sum of the examples' losses, a scalar; and, detached, the sums of loss_rea and loss_rec,
        shape (2,). Divided by the number of examples in the whole batch, on all workers together,
        the first is Eq. 2's mean.
    """
    logits_SV = logits_SV.to(_accumulator(logits_SV))
    losses_S = cross_entropy(logits_SV, targets_S, reduction="none")
    spans_2 = shares_2S.to(losses_S.dtype) @ losses_S
    return alpha * spans_2[0] + beta * spans_2[1], spans_2.detach()


def _accumulator(logits: torch.Tensor) -> torch.dtype:
    """At least float32, so that bfloat16 logits lose nothing more."""
    return torch.promote_types(logits.dtype, torch.float32)
