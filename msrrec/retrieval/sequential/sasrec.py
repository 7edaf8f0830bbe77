"""SASRec (Kang and McAuley 2018) in RecBole's form: two post-norm Transformer layers, GELU.

RecBole 1.2.1: 2 layers, 2 heads, inner size four times that of an item vector, layer norm's epsilon
1e-12, weights N(0, 0.02).
"""

from typing import Protocol

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from msrrec.retrieval.sequential.network import Network

NUM_LAYERS, NUM_HEADS = 2, 2
EPSILON = 1e-12
INIT_STD = 0.02


class Shape(Protocol):
    """What decides a network's form."""

    @property
    def size(self) -> int:
        """Size of an item's vector."""
        ...

    @property
    def dropout(self) -> float:
        """Share of values that training leaves out."""
        ...


class Layer(nn.Module):
    """Causal self-attention and a feed-forward net, each added to its input and normalised."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.qkv, self.mix = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widen, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.norm_attention = nn.LayerNorm(size, EPSILON)
        self.norm_output = nn.LayerNorm(size, EPSILON)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Map (B, T, D) to the same shape; causality hides the padding, which is on the right."""
        shape = (*x_BTD.shape[:2], 3, NUM_HEADS, -1)
        query, key, value = self.qkv(x_BTD).view(shape).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        mixed = self.mix(seen.transpose(1, 2).flatten(2))
        x_BTD = self.norm_attention(x_BTD + self.drop(mixed))
        output: torch.Tensor = self.norm_output(
            x_BTD + self.drop(self.narrow(gelu(self.widen(x_BTD))))
        )
        return output


class SasRecNetwork(Network):
    """Item and position vectors through the layers."""

    def __init__(self, num_items: int, num_users: int, length: int, shape: Shape) -> None:
        super().__init__()
        del num_users
        self.items = nn.Embedding(num_items + 1, shape.size, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length, shape.size))
        self.norm = nn.LayerNorm(shape.size, EPSILON)
        self.drop = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(Layer(shape.size, shape.dropout) for _ in range(NUM_LAYERS))
        nn.init.normal_(self.positions, std=INIT_STD)
        self.apply(_init)

    def forward(self, inputs_BT: torch.Tensor, users_B: torch.Tensor) -> torch.Tensor:
        """The states after each position, (B, T, D)."""
        del users_B
        x_BTD: torch.Tensor = self.items(inputs_BT) + self.positions[: inputs_BT.shape[1]]
        x_BTD = self.drop(self.norm(x_BTD))
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return x_BTD


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
