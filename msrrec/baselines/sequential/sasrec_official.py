"""SASRec (Kang and McAuley 2018) in its authors' form, and what grew from it by other losses.

In the authors' code (github.com/kang205/SASRec, ``modules.py``) a block normalises its input, but
only the queries of its attention; keys and values are the input as it is. The normalised queries,
and the normalised input of the feed-forward net, are what the outputs are added to. Attention has
no output projection, the feed-forward net is as narrow as the item vectors and has ReLU, item
vectors are multiplied by the square root of their size, and the last block's output is normalised.

- ``SasRecOfficial``: 2 blocks, 1 head, size 50, dropout 0.5; with the loss ``binary``.
- ``SasRecOneBlock``: 1 block, 1 head, size 64, dropout 0.2, as in 2508.06450; with the loss
  ``sampled``.
- ``GSasRec``: 2 blocks, 1 head, size 128, dropout 0.5 (2308.07192); with the loss ``gbce``.

All see ``baselines.history_length`` events like every other system, where the papers see 50 or 200.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import relu, scaled_dot_product_attention

from msrrec.baselines.sequential.system import Sequential
from msrrec.baselines.sequential.trainer import Trial
from msrrec.retrieval.sequential.network import Network

EPSILON = 1e-8


class Block(nn.Module):
    """Causal self-attention of one head and a feed-forward net, in the authors' order."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)
        self.norm_query = nn.LayerNorm(size, EPSILON)
        self.norm_input = nn.LayerNorm(size, EPSILON)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Map (B, T, D) to the same shape; causality hides the padding, which is on the right."""
        normed_BTD = self.norm_query(x_BTD)
        dropout = self.dropout if self.training else 0.0
        seen_BTD = scaled_dot_product_attention(
            self.query(normed_BTD),
            self.key(x_BTD),
            self.value(x_BTD),
            dropout_p=dropout,
            is_causal=True,
        )
        x_BTD = self.norm_input(normed_BTD + seen_BTD)
        output: torch.Tensor = x_BTD + self.drop(self.second(self.drop(relu(self.first(x_BTD)))))
        return output


class SasRecOfficialNetwork(Network):
    """Scaled item vectors and position vectors through the blocks."""

    num_blocks: ClassVar[int] = 2

    def __init__(self, num_items: int, num_users: int, length: int, trial: Trial) -> None:
        super().__init__()
        del num_users
        self.items = nn.Embedding(num_items + 1, trial.size, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length, trial.size))
        self.drop = nn.Dropout(trial.dropout)
        self.blocks = nn.ModuleList(
            Block(trial.size, trial.dropout) for _ in range(self.num_blocks)
        )
        self.norm = nn.LayerNorm(trial.size, EPSILON)
        nn.init.xavier_uniform_(self.positions)
        self.apply(_init)

    def forward(self, inputs_BT: torch.Tensor, users_B: torch.Tensor) -> torch.Tensor:
        """The states after each position, (B, T, D)."""
        del users_B
        scale = self.items.embedding_dim**0.5
        x_BTD = self.drop(self.items(inputs_BT) * scale + self.positions[: inputs_BT.shape[1]])
        for block in self.blocks:
            x_BTD = block(x_BTD)
        states: torch.Tensor = self.norm(x_BTD)
        return states


class OneBlockNetwork(SasRecOfficialNetwork):
    """The same with a single block."""

    num_blocks = 1


def _init(module: nn.Module) -> None:
    """Xavier weights, as TensorFlow draws them by default."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.xavier_uniform_(module.weight)
        with torch.no_grad():
            module.weight[0] = 0.0


class SasRecOfficial(Sequential):
    """The SASRec baseline in its authors' form."""

    network = SasRecOfficialNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.5, size=50)


class SasRecOneBlock(Sequential):
    """SASRec with one block, for the sampled softmax."""

    network = OneBlockNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.2, size=64)


class GSasRec(Sequential):
    """The gSASRec baseline: SASRec with many negatives and a calibrated loss."""

    network = SasRecOfficialNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.5, size=128)
