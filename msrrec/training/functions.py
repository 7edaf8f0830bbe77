"""Differentiable parts of a frozen model with LoRA that skip unused gradients.

Frozen weights get no gradient, LoRA's dropout is 0, and every product runs in the type of its
input. Values that autograd would keep only for unused gradients are not computed.

Shapes: T = tokens of a row, K = inputs, N = outputs, R = LoRA rank, H = heads, D = head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import silu


@dataclass(frozen=True)
class Frozen:
    """The frozen part of a linear layer.

    Attributes:
        weight: (N, K).
        bias: (N,), or None.
        scale: Factor of the LoRA update, alpha / R.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float


def lora_linears(
    x: torch.Tensor, frozen: Sequence[Frozen], lora: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The outputs of several linear layers with LoRA on the same input, which is stored once.

    Args:
        x: (T, K), in the type of the frozen weights.
        frozen: The frozen part of each layer.
        lora: A (R, K) and B (N, R) of the first layer, of the second, and so on; float32.

    Returns:
        ``x @ (weight + scale * B @ A).T + bias`` of every layer, (T, N).
    """
    outputs: tuple[torch.Tensor, ...] = _LoraLinears.apply(x, frozen, *lora)  # type: ignore[no-untyped-call]
    return outputs


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, frozen: Sequence[Frozen], *lora: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        a = torch.cat([matrix.to(x.dtype) for matrix in lora[::2]])
        b = [(m * f.scale).to(x.dtype) for m, f in zip(lora[1::2], frozen, strict=True)]
        reduced = x @ a.t()  # (T, sum of R)
        outputs = []
        for layer, matrix, u in zip(frozen, b, _split(reduced, b), strict=True):
            y = torch.nn.functional.linear(x, layer.weight, layer.bias)
            outputs.append(y.addmm_(u, matrix.t()))
        ctx.save_for_backward(x, reduced, a, *b, *(layer.weight for layer in frozen))
        ctx.scales, ctx.dtype = [layer.scale for layer in frozen], lora[0].dtype
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, reduced, a, *rest = ctx.saved_tensors
        b, weights = rest[: len(grads)], rest[len(grads) :]
        grad_reduced = torch.cat([g @ m for g, m in zip(grads, b, strict=True)], 1)
        grad_b = [
            (g.t() @ u).to(ctx.dtype).mul_(scale)
            for g, u, scale in zip(grads, _split(reduced, b), ctx.scales, strict=True)
        ]
        grad_a = (grad_reduced.t() @ x).to(ctx.dtype).split_with_sizes([m.shape[1] for m in b])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_reduced @ a
            for g, weight in zip(grads, weights, strict=True):
                grad_x.addmm_(g, weight)
        pairs = [g for pair in zip(grad_a, grad_b, strict=True) for g in pair]
        return grad_x, None, *pairs


def _split(reduced: torch.Tensor, b: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The columns that belong to each layer, (T, R)."""
    return reduced.split_with_sizes([matrix.shape[1] for matrix in b], 1)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype
) -> torch.Tensor:
    """RMSNorm over the last dimension with a frozen weight; the result is in ``dtype``."""
    output: torch.Tensor = _RmsNorm.apply(x, weight, epsilon, dtype)  # type: ignore[no-untyped-call]
    return output


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype
    ) -> torch.Tensor:
        wide = x.float()
        factor = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, factor, weight)
        normal = wide * factor
        if dtype == torch.float32:
            return normal.mul_(weight)
        return normal.to(dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, factor, weight = ctx.saved_tensors
        normal = x * factor  # float32
        grad = grads[0] * weight.float()
        along = (grad * normal).mean(-1, keepdim=True)
        return grad.sub_(normal.mul_(along)).mul_(factor).to(x.dtype), None, None, None


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up``."""
    output: torch.Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return output


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grad_up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, heads first.

    Args:
        x: (T, H, D).
        cos: (T, D), both halves alike.
        sin: (T, D), likewise.

    Returns:
        (H, T, D), contiguous.
    """
    output: torch.Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return output


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        cos, sin = cos[:, :half].to(x.dtype), sin[:, :half].to(x.dtype)
        ctx.save_for_backward(cos, sin)
        return _turn(x.transpose(0, 1), cos, sin, x.new_empty((x.shape[1], x.shape[0], 2 * half)))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        grad = grads[0]
        turned = grad.new_empty((grad.shape[1], grad.shape[0], grad.shape[2]))
        _turn(grad, cos, -sin, turned.transpose(0, 1))
        return turned, None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (first half, second half) by its angle; all (H, T, D), angles (T, D / 2)."""
    (first, second), (left, right) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(first, cos, out=left)
    left.addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right)
    right.addcmul_(first, sin)
    return out
