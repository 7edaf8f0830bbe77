"""Causal attention over packed examples, each to itself, for any model that lets one plug it in.

On processors it multiplies in blocks of its own: torch's kernel there gains nothing from bfloat16.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "msrrec_packed"

_BLOCK_ROWS = 128
"""Queries per block: the part of the square above the diagonal that is multiplied in vain is small,
and the blocks are large enough for the matrix unit."""


def use_packed_attention(model: Any) -> bool:
    """Make a transformers model attend per packed example; False where its attention is special.

    Models with sliding windows, dropout in the attention or other layer types keep their own; they
    must be given one example a row.
    """
    from transformers import AttentionInterface

    config = model.config
    layer_types = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    special = layer_types or getattr(config, "sliding_window", None)
    if special or getattr(config, "attention_dropout", 0) or not model._supports_attention_backend:
        return False
    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
    return True


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sequence_lengths: Sequence[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers' interface, for one row of packed examples.

    Args:
        module: The attention layer; unused.
        query: (1, heads, T, width).
        key: (1, key heads, T, width); key heads divide heads.
        value: Like ``key``.
        attention_mask: None; the lengths say it all.
        scaling: Of the scores; None for 1 / sqrt(width).
        sequence_lengths: Tokens of each example, in order; None for one example.

    Returns:
        (1, T, heads, width), and no weights.
    """
    lengths = list(sequence_lengths or [query.shape[2]])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)
    attend = _attend_on_cpu if query.device.type == "cpu" else _attend
    parts = [states.split_with_sizes(lengths, 2) for states in (query, key, value)]
    outputs = [attend(q, k, v, scale) for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, 2).transpose(1, 2), None


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _attend_on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = (x[0].repeat_interleave(groups, 0) if groups > 1 else x[0] for x in (k, v))
    output: torch.Tensor = _BlockedAttention.apply(q[0], k, v, scale)  # type: ignore[no-untyped-call]
    return output[None]


class _BlockedAttention(torch.autograd.Function):
    """Causal attention of one sequence, block of queries by block; all shapes (heads, T, width)."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        q = q * scale
        weights, outputs = [], []
        for begin, end in _blocks(q.shape[1]):
            scores = q[:, begin:end] @ k[:, :end].transpose(1, 2)
            future = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
            scores[:, :, begin:].masked_fill_(future, float("-inf"))
            weights.append(scores.softmax(-1))
            outputs.append(weights[-1] @ v[:, :end])
        output = torch.cat(outputs, 1)
        ctx.save_for_backward(q, k, v, output, *weights)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        q, k, v, output, *weights = ctx.saved_tensors
        grad = gradients[0]
        mean = (grad * output).sum(-1, keepdim=True)  # of each softmax's gradient
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (begin, end), weight in zip(_blocks(q.shape[1]), weights, strict=True):
            rows = slice(begin, end)
            grad_v[:, :end] += weight.transpose(1, 2) @ grad[:, rows]
            grad_scores = grad[:, rows] @ v[:, :end].transpose(1, 2)
            grad_scores.sub_(mean[:, rows]).mul_(weight)
            grad_q[:, rows] = grad_scores @ k[:, :end]
            grad_k[:, :end] += grad_scores.transpose(1, 2) @ q[:, rows]
        return grad_q * ctx.scale, grad_k, grad_v, None


def _blocks(length: int) -> list[tuple[int, int]]:
    starts = range(0, length, _BLOCK_ROWS)
    return [(start, min(start + _BLOCK_ROWS, length)) for start in starts]
