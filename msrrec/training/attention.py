"""Causal attention over packed examples, each attending to itself alone.

It plugs into any transformers model that allows its attention to be replaced. On CPUs it multiplies
blocks of queries, as torch's CPU kernel is no faster in bfloat16.

Shapes: H = heads, G = key heads (they divide H), T = tokens of the row, D = head width, Q = query
tokens: those of each example from its ``start`` on, all of them where it is 0.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention

Kernel = Literal["blocked", "sdpa", "varlen"]
"""``blocked``: our own blocks of queries; ``sdpa``: torch's attention, one example at a time;
``varlen``: torch's flash attention over all examples at once, for GPUs and 16-bit types."""

_BLOCK_ROWS = 128
"""Queries per block: small enough to multiply little above the diagonal, large enough for the CPU's
matrix unit."""


def fastest_kernel(device: torch.device, dtype: torch.dtype) -> Kernel:
    """The fastest kernel for matrix products of a type on a device."""
    if device.type == "cpu":
        return "blocked"
    flash = torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return "varlen" if flash and dtype in (torch.bfloat16, torch.float16) else "sdpa"


def use_packed_attention(model: Any, kernel: Kernel) -> bool:
    """Make a transformers model attend per packed example; False if its attention is special.

    Models with sliding windows, attention dropout or other layer types keep their own attention and
    must be given one example per row.
    """
    from transformers import AttentionInterface

    config = model.config
    layer_types = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    special = layer_types or getattr(config, "sliding_window", None)
    special = special or getattr(config, "attn_logit_softcapping", None)
    if special or getattr(config, "attention_dropout", 0) or not model._supports_attention_backend:
        return False
    name = f"msrrec_{kernel}"
    AttentionInterface.register(name, functools.partial(packed_attention, kernel=kernel))
    model.set_attn_implementation(name)
    return True


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sequence_lengths: Sequence[int] | None = None,
    kernel: Kernel = "blocked",
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers' interface, for one row of packed examples.

    Args:
        module: The attention layer; unused.
        query: (1, H, T, D).
        key: (1, G, T, D).
        value: Like ``key``.
        attention_mask: None; the lengths define the mask.
        scaling: Factor of the scores; None for 1 / sqrt(D).
        sequence_lengths: Tokens of each example, in order; None for one example.
        kernel: What computes it.

    Returns:
        (1, T, H, D), and no weights.
    """
    lengths = tuple(sequence_lengths or (query.shape[2],))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x.squeeze(0).to(value.dtype) for x in (query, key, value))
    return attend(q, k, v, lengths, (0,) * len(lengths), scale, kernel).unsqueeze(0), None


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: tuple[int, ...],
    starts: tuple[int, ...],
    scale: float,
    kernel: Kernel,
) -> torch.Tensor:
    """Causal attention of every example to itself.

    Args:
        q: (H, Q, D).
        k: (G, T, D).
        v: Like ``k``.
        lengths: Tokens of each example, in order; they sum to T.
        starts: First query token of each example; its length where it has none.
        scale: Factor of the scores.
        kernel: What computes it.

    Returns:
        (Q, H, D).
    """
    if kernel == "blocked":
        output: torch.Tensor = _BlockedAttention.apply(q, k, v, lengths, starts, scale)  # type: ignore[no-untyped-call]
        return output
    if kernel == "varlen":
        return _attend_varlen(q, k, v, lengths, starts, scale)
    return _attend_by_example(q, k, v, lengths, starts, scale)


def _attend_by_example(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: tuple[int, ...],
    starts: tuple[int, ...],
    scale: float,
) -> torch.Tensor:
    from torch.nn.attention.bias import causal_lower_right

    counts = [length - start for length, start in zip(lengths, starts, strict=True)]
    parts = zip(
        q.split_with_sizes(counts, 1),
        k.split_with_sizes(lengths, 1),
        v.split_with_sizes(lengths, 1),
        strict=True,
    )
    outputs = []
    for example_q, example_k, example_v in parts:
        asked, keys = example_q.shape[1], example_k.shape[1]
        outputs.append(
            scaled_dot_product_attention(
                example_q[None],
                example_k[None],
                example_v[None],
                attn_mask=None if asked == keys else causal_lower_right(asked, keys),
                is_causal=asked == keys,
                scale=scale,
                enable_gqa=len(q) != len(k),
            )[0]
        )
    return torch.cat(outputs, 1).transpose(0, 1)


def _attend_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: tuple[int, ...],
    starts: tuple[int, ...],
    scale: float,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    counts = tuple(length - start for length, start in zip(lengths, starts, strict=True))
    output = varlen_attn(
        q.transpose(0, 1),
        k.transpose(0, 1),
        v.transpose(0, 1),
        _bounds(counts, q.device),
        _bounds(lengths, q.device),
        max(counts),
        max(lengths),
        scale=scale,
        window_size=(-1, 0),  # causal, aligned at the end of each example
        enable_gqa=len(q) != len(k),
    )
    assert isinstance(output, torch.Tensor)  # a tensor alone, as no log-sums are requested
    return output


@functools.lru_cache(maxsize=8)  # every layer asks for the same
def _bounds(counts: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor((0, *counts)).cumsum(0).to(device=device, dtype=torch.int32)


class _BlockedAttention(torch.autograd.Function):
    """Attention computed in blocks of queries; queries that share a key head form one product."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        lengths: Sequence[int],
        starts: Sequence[int],
        scale: float,
    ) -> torch.Tensor:
        q, output = q * scale, q.new_empty((q.shape[1], q.shape[0], q.shape[2]))
        grouped_q, grouped_output = _grouped(q, len(k)), _grouped(output.transpose(0, 1), len(k))
        hidden = torch.full((_BLOCK_ROWS, _BLOCK_ROWS), float("-inf"), dtype=q.dtype).triu_(1)
        weights = []
        for rows, keys, count in _blocks(lengths, starts):
            scores = grouped_q[:, :, rows].flatten(1, 2) @ k[:, keys].transpose(1, 2)
            _ungrouped(scores, count)[..., -count:].add_(hidden[:count, :count])
            weights.append(scores.softmax(-1))
            grouped_output[:, :, rows] = _ungrouped(weights[-1] @ v[:, keys], count)
        ctx.save_for_backward(q, k, v, output, *weights)
        ctx.lengths, ctx.starts, ctx.scale = lengths, starts, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, output, *weights = ctx.saved_tensors
        mean = _grouped((grads[0] * output).sum(-1, keepdim=True).transpose(0, 1), len(k))
        grad = _grouped(grads[0].transpose(0, 1).contiguous(), len(k))  # each block reads it twice
        grouped_q = _grouped(q, len(k))
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grouped_grad_q = _grouped(grad_q, len(k))
        blocks = zip(_blocks(ctx.lengths, ctx.starts), weights, strict=True)
        for (rows, keys, count), weight in blocks:
            grad_rows = grad[:, :, rows].flatten(1, 2)
            grad_v[:, keys].baddbmm_(weight.transpose(1, 2), grad_rows)
            grad_scores = grad_rows @ v[:, keys].transpose(1, 2)
            grad_scores.sub_(mean[:, :, rows].flatten(1, 2)).mul_(weight)
            grouped_grad_q[:, :, rows] = _ungrouped(grad_scores @ k[:, keys], count)
            rows_q = grouped_q[:, :, rows].flatten(1, 2)
            grad_k[:, keys].baddbmm_(grad_scores.transpose(1, 2), rows_q)
        return grad_q.mul_(ctx.scale), grad_k, grad_v, None, None, None


def _grouped(states: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Reshape (H, ...) to (G, H / G, ...)."""
    return states.view(key_heads, -1, *states.shape[1:])


def _ungrouped(states: torch.Tensor, count: int) -> torch.Tensor:
    """Reshape (G, H / G * count, ...) to (G, H / G, count, ...)."""
    return states.view(len(states), -1, count, states.shape[-1])


def _blocks(lengths: Sequence[int], starts: Sequence[int]) -> Iterator[tuple[slice, slice, int]]:
    """For every block: its query rows, the keys that they attend to, and the number of rows."""
    first_row = first_key = 0
    for length, start in zip(lengths, starts, strict=True):
        for begin in range(start, length, _BLOCK_ROWS):
            end = min(begin + _BLOCK_ROWS, length)
            row = first_row + begin - start
            yield slice(row, row + end - begin), slice(first_key, first_key + end), end - begin
        first_row, first_key = first_row + length - start, first_key + length
