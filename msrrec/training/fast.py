"""Faster decoder layers for Llama and similar models with frozen weights and LoRA.

The PEFT model keeps its parameters, names and files; only the computation of its layers is replaced
by ``functions``. Other models and other kinds of LoRA are left unchanged.

Shapes: T = tokens of a row, E = hidden size.
"""

import functools
from typing import Any

import torch
from torch import nn

from msrrec.training.attention import Kernel, attend
from msrrec.training.functions import Frozen, lora_linears, rms_norm, rotate, swiglu

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers have this structure: RMSNorm, attention with rotary positions, RMSNorm,
SwiGLU."""


def use_fast_layers(base: Any, kernel: Kernel, dtype: torch.dtype) -> bool:
    """Replace the layers of a transformers model with LoRA by fast ones; False if impossible.

    The frozen matrices are converted to ``dtype``, the type of the matrix products. The layers take
    the row's ``lengths``, ``starts`` and ``tails`` (see ``packing.Packed``) as keyword arguments;
    the last layer returns only the tails.

    Args:
        base: The model inside the PEFT model, with standard attention.
        kernel: Implementation of the attention.
        dtype: Type of the matrix products.
    """
    if base.config.model_type not in MODEL_TYPES or not _fits(base):
        return False
    layers = base.get_decoder().layers
    for layer in layers:
        for module in _linears(layer):
            for weight in module.base_layer.parameters():
                weight.data = weight.data.to(dtype)
        layer.forward = functools.partial(
            run_layer, layer, kernel=kernel, is_last=layer is layers[-1]
        )
    return True


def head_weight(base: Any, dtype: torch.dtype) -> torch.Tensor:
    """The frozen matrix of the vocabulary projection, in ``dtype``.

    Unless it is shared with the embedding, the model's own matrix is converted to that type.
    """
    head = base.get_output_embeddings()
    if head.weight is not base.get_input_embeddings().weight:
        head.weight.data = head.weight.data.to(dtype)
    weight: torch.Tensor = head.weight.detach().to(dtype)
    return weight


def run_layer(
    layer: Any,
    hidden_states: torch.Tensor,
    *,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    lengths: tuple[int, ...],
    starts: tuple[int, ...],
    tails: torch.Tensor,
    kernel: Kernel,
    is_last: bool,
    **_: Any,
) -> torch.Tensor:
    """A layer's output, (1, T, E); for the last layer only that of the tails."""
    attention, mlp = layer.self_attn, layer.mlp
    x_TE = hidden_states.squeeze(0)
    normal = _norm(layer.input_layernorm, x_TE, attention.q_proj)
    if is_last:
        key, value = _apply(normal, attention.k_proj, attention.v_proj)
        (query,) = _apply(normal[tails], attention.q_proj)
        x_TE = x_TE[tails]
    else:
        starts = (0,) * len(lengths)
        query, key, value = _apply(normal, attention.q_proj, attention.k_proj, attention.v_proj)
    angles = [part.squeeze(0) for part in position_embeddings]
    q = _heads(attention, "q_norm", query, [part[tails] for part in angles] if is_last else angles)
    k = _heads(attention, "k_norm", key, angles)
    v = value.view(len(value), -1, attention.head_dim).transpose(0, 1).contiguous()
    states = attend(q, k, v, lengths, starts, attention.scaling, kernel)
    x_TE = x_TE + _apply(states.flatten(1), attention.o_proj)[0]
    normal = _norm(layer.post_attention_layernorm, x_TE, mlp.gate_proj)
    product = swiglu(*_apply(normal, mlp.gate_proj, mlp.up_proj))
    return x_TE[None] + _apply(product, mlp.down_proj)[0][None]  # no view: FSDP would warn


def _heads(
    attention: Any, norm: str, states: torch.Tensor, angles: list[torch.Tensor]
) -> torch.Tensor:
    """Queries or keys by head, normalised if the model does so, then rotated by position."""
    heads = states.view(len(states), -1, attention.head_dim)
    if hasattr(attention, norm):
        module = getattr(attention, norm)
        heads = rms_norm(heads, module.weight, module.variance_epsilon, states.dtype)
    return rotate(heads, *angles)


def _norm(module: Any, x: torch.Tensor, then: Any) -> torch.Tensor:
    """RMSNorm, in the type of the linear layer that follows."""
    return rms_norm(x, module.weight, module.variance_epsilon, then.base_layer.weight.dtype)


def _apply(x: torch.Tensor, *modules: Any) -> tuple[torch.Tensor, ...]:
    """The outputs of several of PEFT's linear layers on the same input."""
    frozen, lora = [], []
    for module in modules:
        (name,) = module.active_adapters
        base = module.base_layer
        frozen.append(Frozen(base.weight, base.bias, module.scaling[name]))
        lora += [module.lora_A[name].weight, module.lora_B[name].weight]
    return lora_linears(x, frozen, lora)


def _linears(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]


def _fits(base: Any) -> bool:
    """Whether every linear layer is frozen and plain, with plain LoRA without dropout.

    The vocabulary projection has no LoRA.
    """
    head = base.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return False
    if base.config.hidden_act not in ("silu", "swish"):
        return False
    return all(
        _is_plain(module) for layer in base.get_decoder().layers for module in _linears(layer)
    )


def _is_plain(module: Any) -> bool:
    from peft.tuners.lora import Linear

    if type(module) is not Linear or len(module.active_adapters) != 1 or module.merged:
        return False
    name, base = module.active_adapters[0], module.base_layer
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and not (base.bias is not None and base.bias.requires_grad)
        and not module.lora_variant
        and not module.lora_bias[name]
        and isinstance(module.lora_dropout[name], nn.Identity)
    )
