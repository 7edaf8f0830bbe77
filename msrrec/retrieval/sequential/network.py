"""What all networks over histories share: states of the histories, and one table of item vectors.

Shapes: B = histories, T = events, D = size of a vector, V = items. Code 0 is padding, on the right;
items count from 1.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

_ROWS_AT_ONCE = 4096


class Network(torch.nn.Module):
    """What a system defines: states of the histories, and one table of item vectors.

    Attributes:
        items: Vectors of codes 0 (padding) to V.
    """

    items: torch.nn.Embedding

    def forward(self, inputs_BT: torch.Tensor, users_B: torch.Tensor) -> torch.Tensor:
        """States (B, T, D); the state at t depends only on inputs up to t."""
        raise NotImplementedError

    @property
    def table(self) -> torch.Tensor:
        """Vectors of the items, (V, D); row v has the item of code v + 1."""
        return self.items.weight[1:]


def encode_histories(
    network: Network, histories: Sequence[Sequence[int]], users: Sequence[int], length: int
) -> torch.Tensor:
    """The state after the last event of each history, (number of histories, D)."""
    device, found = network.items.weight.device, []
    network.eval()
    with torch.inference_mode():
        for begin in range(0, len(histories), _ROWS_AT_ONCE):
            part = histories[begin : begin + _ROWS_AT_ONCE]
            inputs = torch.from_numpy(pad_right(part, length)).to(device)
            owners = torch.tensor(users[begin : begin + _ROWS_AT_ONCE], device=device)
            last = torch.tensor([min(len(codes), length) - 1 for codes in part], device=device)
            states = network(inputs, owners)
            found.append(states[torch.arange(len(part), device=device), last])
    return torch.cat(found)


def pad_right(sequences: Sequence[Sequence[int]], length: int) -> IntArray:
    """The last ``length`` codes of each sequence, then zeros; shape (R, T)."""
    padded = np.zeros((len(sequences), length), dtype=np.int64)
    for row, codes in zip(padded, sequences, strict=True):
        latest = codes[-length:]
        row[: len(latest)] = latest
    return padded
