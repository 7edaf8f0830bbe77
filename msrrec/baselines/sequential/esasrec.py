"""A setting like eSASRec (2508.06450): LiGR blocks and the sampled softmax.

A LiGR block (2502.03417) normalises before attention and before a SwiGLU feed-forward net of four
times the size, and adds each output to its unnormalised input through a gate: a sigmoid of a linear
map of that input. One block and one head, size 64, dropout 0.2.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from msrrec.baselines.sequential.system import Sequential
from msrrec.baselines.sequential.trainer import Trial
from msrrec.retrieval.sequential.network import Network

NUM_BLOCKS, WIDENING = 1, 4
INIT_STD = 0.02


class LigrBlock(nn.Module):
    """Gated causal self-attention of one head, and a gated feed-forward net."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.qkv, self.mix = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widen = nn.Linear(size, 2 * WIDENING * size, bias=False)
        self.narrow = nn.Linear(WIDENING * size, size, bias=False)
        self.norm_attention, self.norm_wide = nn.LayerNorm(size), nn.LayerNorm(size)
        self.gate_attention, self.gate_wide = nn.Linear(size, size), nn.Linear(size, size)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Map (B, T, D) to the same shape; causality hides the padding, which is on the right."""
        query, key, value = self.qkv(self.norm_attention(x_BTD)).chunk(3, dim=2)
        dropout = self.dropout if self.training else 0.0
        seen = scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x_BTD = x_BTD + torch.sigmoid(self.gate_attention(x_BTD)) * self.drop(self.mix(seen))
        gate, wide = self.widen(self.norm_wide(x_BTD)).chunk(2, dim=2)
        added = self.drop(self.narrow(self.drop(silu(gate) * wide)))
        output: torch.Tensor = x_BTD + torch.sigmoid(self.gate_wide(x_BTD)) * added
        return output


class ESasRecNetwork(Network):
    """Item and position vectors through the blocks."""

    def __init__(self, num_items: int, num_users: int, length: int, trial: Trial) -> None:
        super().__init__()
        del num_users
        self.items = nn.Embedding(num_items + 1, trial.size, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length, trial.size))
        self.drop = nn.Dropout(trial.dropout)
        self.blocks = nn.ModuleList(LigrBlock(trial.size, trial.dropout) for _ in range(NUM_BLOCKS))
        nn.init.normal_(self.positions, std=INIT_STD)
        nn.init.normal_(self.items.weight[1:], std=INIT_STD)

    def forward(self, inputs_BT: torch.Tensor, users_B: torch.Tensor) -> torch.Tensor:
        """The states after each position, (B, T, D)."""
        del users_B
        x_BTD: torch.Tensor = self.drop(
            self.items(inputs_BT) + self.positions[: inputs_BT.shape[1]]
        )
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return x_BTD


class ESasRec(Sequential):
    """The baseline like eSASRec."""

    network = ESasRecNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.2, size=64)
