"""Caser (Tang and Wang 2018) in RecBole's form: convolutions over the last events as an image.

RecBole 1.2.1: item and user vectors of 64, 4 vertical and 8 horizontal filters of each height,
dropout 0.4. Its penalty of 1e-4 times the weights' norms has no effect and is left out. RecBole
makes one image per prefix. Here one pass covers all prefixes of a row: the image at a position is
the row up to it, with zeros before, so its convolutions are those of a sliding window.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import pad, relu

from msrrec.baselines.sequential.system import Sequential
from msrrec.baselines.sequential.trainer import Trial
from msrrec.retrieval.sequential.network import Network

NUM_VERTICAL, NUM_HORIZONTAL = 4, 8


class CaserNetwork(Network):
    """Sliding convolutions, a dense layer, and a second one that also gets the user's vector."""

    def __init__(self, num_items: int, num_users: int, length: int, trial: Trial) -> None:
        super().__init__()
        size = trial.size
        self.length = length
        self.items = nn.Embedding(num_items + 1, size, padding_idx=0)
        self.users = nn.Embedding(num_users + 1, size, padding_idx=0)
        self.vertical = nn.Conv2d(1, NUM_VERTICAL, (length, 1))
        self.horizontal: Sequence[nn.Conv1d] = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv1d(size, NUM_HORIZONTAL, height) for height in range(1, length + 1)
        )
        self.drop = nn.Dropout(trial.dropout)
        self.first = nn.Linear(NUM_VERTICAL * size + NUM_HORIZONTAL * length, size)
        self.second = nn.Linear(2 * size, size)
        for table in (self.items, self.users):
            nn.init.normal_(table.weight[1:], std=1 / size)
        for layer in (self.first, self.second):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs_BT: torch.Tensor, users_B: torch.Tensor) -> torch.Tensor:
        """The states after each position, (B, T, D)."""
        image_BTD = pad(self.items(inputs_BT), (0, 0, self.length - 1, 0))
        parts = [self._weighted(image_BTD), *self._highest(image_BTD)]
        dense_BTD = relu(self.first(self.drop(torch.cat(parts, dim=2))))
        users_BTD = self.users(users_B)[:, None].expand_as(dense_BTD)
        states: torch.Tensor = relu(self.second(torch.cat([dense_BTD, users_BTD], dim=2)))
        return states

    def _weighted(self, image_BTD: torch.Tensor) -> torch.Tensor:
        """Vertical convolutions, (B, T, filters x D): weighted sums over each position's window.

        All windows are computed by one product, with a matrix whose row t has the filter's weights
        at t.
        """
        weights = self.vertical.weight.view(NUM_VERTICAL, self.length)
        num_rows = image_BTD.shape[1] - self.length + 1
        repeated = pad(weights, (0, num_rows)).repeat(1, num_rows)
        shifted = repeated[:, : num_rows * image_BTD.shape[1]]
        shifted = shifted.reshape(NUM_VERTICAL, num_rows, -1)
        sums = torch.einsum("fts,bsd->btfd", shifted, image_BTD)
        assert self.vertical.bias is not None
        return (sums + self.vertical.bias[:, None]).flatten(2)

    def _highest(self, image_BTD: torch.Tensor) -> list[torch.Tensor]:
        """Horizontal convolutions with max pooling, (B, T, filters) for each height.

        One product gives every event's contribution at every place of every filter; a convolution
        is the sum of these contributions, each shifted by its place.
        """
        weights = [conv.weight.permute(1, 2, 0).flatten(1) for conv in self.horizontal]
        parts = torch.split(image_BTD @ torch.cat(weights, dim=1), NUM_HORIZONTAL, dim=2)
        found, begin, size = [], 0, image_BTD.shape[1]
        for height, conv in enumerate(self.horizontal, 1):
            own = parts[begin : begin + height]
            begin += height
            first, *others = (part[:, n : size - height + 1 + n] for n, part in enumerate(own))
            assert conv.bias is not None
            windows = sum(others, first + conv.bias).unfold(1, self.length - height + 1, 1)
            found.append(relu(windows.amax(3)))
        return found


class Caser(Sequential):
    """The Caser baseline."""

    network = CaserNetwork
    usual = Trial(learning_rate=1e-3, dropout=0.4, size=64)
