"""Training of one network with one trial's settings, up to its best epoch on validation."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msrrec.baselines.interface import Facts
from msrrec.baselines.sequential.loss import NUM_NEGATIVES, POSITIONS_PER_DRAW, LossName, loss_of
from msrrec.baselines.sequential.rows import Purchases, Rows, owner_keys
from msrrec.errors import ModelError
from msrrec.retrieval.sequential.network import Network

IntArray = NDArray[np.int64]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Trial:
    """The settings of one trial."""

    learning_rate: float
    dropout: float
    size: int
    """Size of an item's vector."""


@dataclass(frozen=True)
class FitSettings:
    """Settings shared by all trials.

    Attributes:
        length: Latest events that the network sees.
        batch_size: Approximate number of supervised positions per step.
    """

    length: int
    batch_size: int
    max_epochs: int
    patience: int
    seed: int
    loss: LossName = "softmax"


@dataclass
class Fitted:
    """The result of one trial.

    Attributes:
        figure: The best validation result, reached in ``epoch`` (counted from 1).
        state: The network's weights after that epoch.
        epoch_s: Seconds of training of each epoch, validation left out.
    """

    trial: Trial
    figure: float = float("-inf")
    epoch: int = 0
    state: State = field(default_factory=dict)
    epoch_s: list[float] = field(default_factory=list)

    def facts(self) -> Facts:
        """The facts about it for a report."""
        return {
            **asdict(self.trial),
            "validation": self.figure,
            "best_epoch": self.epoch,
            "epochs": len(self.epoch_s),
            "epoch_s": round(float(np.median(self.epoch_s)), 4) if self.epoch_s else None,
        }


def train_trial(
    network: Network,
    purchases: Purchases,
    trial: Trial,
    settings: FitSettings,
    validate: Callable[[Network], float],
    tell: Callable[[str], None] = lambda note: None,
) -> Fitted:
    """Train until validation has not improved for ``patience`` epochs.

    Args:
        network: The network on its device; afterwards it has the weights of the last epoch.
        purchases: The purchases of all users.
        trial: Its settings.
        settings: What all trials share.
        validate: Measures the current network; higher is better.
        tell: Called with a progress note after every epoch.

    Raises:
        ModelError: If the loss is not finite.
    """
    rng = np.random.default_rng(settings.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=trial.learning_rate, fused=True)
    fitted = Fitted(trial)
    for epoch in range(1, settings.max_epochs + 1):
        begin = time.perf_counter()
        loss = train_epoch(network, purchases, settings, optimizer, rng)
        fitted.epoch_s.append(time.perf_counter() - begin)
        figure = validate(network)
        if figure > fitted.figure:
            state = {name: value.detach().clone() for name, value in network.state_dict().items()}
            fitted.figure, fitted.epoch, fitted.state = figure, epoch, state
        tell(f"loss {loss:.3f}, validation {figure:.4f}, best {fitted.figure:.4f}")
        if epoch - fitted.epoch >= settings.patience:
            break
    return fitted


def train_epoch(
    network: Network,
    purchases: Purchases,
    settings: FitSettings,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> float:
    """One pass over all events; the mean loss per supervised position.

    Raises:
        ModelError: If the loss is not finite.
    """
    network.train()
    rows = purchases.rows(settings.length, rng)
    total, device = 0.0, network.items.weight.device
    for batch in iter_batches(rows, settings.batch_size, rng):
        mask = batch.targets > 0
        targets = batch.targets[mask] - 1
        inputs, users = torch.from_numpy(batch.inputs), torch.from_numpy(batch.users)
        states_BTD = network(inputs.to(device), users.to(device))
        states_ND = states_BTD[torch.from_numpy(mask).to(device)]
        targets_N = torch.from_numpy(targets).to(device)
        owners = np.broadcast_to(batch.users[:, None], mask.shape)[mask]
        drawn = _draw(settings.loss, owners, purchases, len(network.table), rng)
        negatives = None if drawn is None else torch.from_numpy(drawn).to(device)
        loss = loss_of(settings.loss, states_ND, network.table, targets_N, negatives)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(targets)
    if not np.isfinite(total):
        rate = optimizer.param_groups[0]["lr"]
        raise ModelError(
            f"{type(network).__name__} with the learning rate {rate:g}: the loss is {total}; "
            "expected a finite one"
        )
    return total / purchases.num_targets


def _draw(
    loss: LossName, owners: IntArray, purchases: Purchases, num_items: int, rng: np.random.Generator
) -> IntArray | None:
    """The negatives that a loss needs: one a position, some for a group of positions, or None."""
    if loss == "softmax":
        return None
    if loss == "binary":
        return draw_negatives(owners, purchases, num_items, rng)
    num_groups = -(-len(owners) // POSITIONS_PER_DRAW)
    return rng.integers(num_items, size=(num_groups, max(1, min(NUM_NEGATIVES, num_items - 1))))


def iter_batches(rows: Rows, batch_size: int, rng: np.random.Generator) -> Any:
    """Shuffled rows in batches of about ``batch_size`` targets, cut to their longest row.

    Rows of similar length form a batch, to need little padding; ties and the order of batches are
    random.
    """
    lengths = (rows.inputs > 0).sum(1)
    order = rng.permutation(len(rows))
    order = order[np.argsort(lengths[order], kind="stable")]
    ends = np.cumsum((rows.targets[order] > 0).sum(1))
    num_batches = max(1, round(int(ends[-1]) / batch_size))
    places = np.searchsorted(ends, np.arange(1, num_batches) * (ends[-1] / num_batches))
    batches = np.split(order, places)
    for n in rng.permutation(num_batches):
        chosen = batches[n]
        if len(chosen):
            width = int(lengths[chosen].max())
            yield Rows(
                rows.users[chosen], rows.inputs[chosen, :width], rows.targets[chosen, :width]
            )


def draw_negatives(
    users: IntArray, purchases: Purchases, num_items: int, rng: np.random.Generator
) -> IntArray:
    """A uniform row of the item table for each user code, not bought by the user in training.

    A user who bought everything gets any item.
    """
    negatives = rng.integers(num_items, size=len(users))
    for _ in range(100):  # enough for anybody but those who bought nearly everything
        again = np.flatnonzero(np.isin(owner_keys(users, negatives + 1), purchases.owned))
        if not len(again):
            break
        negatives[again] = rng.integers(num_items, size=len(again))
    return negatives
