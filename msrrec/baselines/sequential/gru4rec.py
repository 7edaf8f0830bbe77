"""GRU4Rec (Hidasi et al. 2016; Tan et al. 2016) in RecBole's form: one recurrent layer, no bias.

RecBole 1.2.1: item vectors of 64, dropout 0.3 on them, hidden size 128, a linear map back to 64,
Xavier weights.
"""

import torch
from torch import nn

from msrrec.baselines.sequential.system import Sequential
from msrrec.baselines.sequential.trainer import Trial
from msrrec.retrieval.sequential.network import Network


class Gru4RecNetwork(Network):
    """Item vectors through a GRU, whose hidden state is twice their size."""

    def __init__(self, num_items: int, num_users: int, length: int, trial: Trial) -> None:
        super().__init__()
        del num_users, length
        self.items = nn.Embedding(num_items + 1, trial.size, padding_idx=0)
        self.drop = nn.Dropout(trial.dropout)
        self.gru = nn.GRU(trial.size, 2 * trial.size, bias=False, batch_first=True)
        self.narrow = nn.Linear(2 * trial.size, trial.size)
        nn.init.xavier_normal_(self.items.weight)
        nn.init.xavier_normal_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)
        for weights in self.gru.parameters():
            nn.init.xavier_uniform_(weights)

    def forward(self, inputs_BT: torch.Tensor, users_B: torch.Tensor) -> torch.Tensor:
        """The states after each position, (B, T, D)."""
        del users_B
        hidden, _ = self.gru(self.drop(self.items(inputs_BT)))
        states: torch.Tensor = self.narrow(hidden)
        return states


class Gru4Rec(Sequential):
    """The GRU4Rec baseline."""

    network = Gru4RecNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.3, size=64)
