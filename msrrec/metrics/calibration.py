"""Whether a probability is worth its name: the expected calibration error, and its remedy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

NUM_BINS = 15
_LOG_RANGE = (-4.0, 4.0)
"""Logarithms of the temperatures that are tried; e**4 makes anything nearly uniform."""

_IMPOSSIBLE = -1e4
"""Stands for minus infinity, at which no temperature would be better than another."""


def expected_calibration_error(
    confidences: ArrayLike, hits: ArrayLike, num_bins: int = NUM_BINS
) -> float:
    """Mean distance of confidence and share of hits, over bins of equal width (1706.04599, Eq. 3).

    Args:
        confidences: One per user, each from 0 to 1.
        hits: Whether the user's recommendation was right.
        num_bins: Number of bins.

    Raises:
        ValueError: If there are no users.
    """
    sure, right = np.asarray(confidences, float), np.asarray(hits, float)
    if sure.size == 0:
        raise ValueError("the calibration of no users is undefined; expected at least one")
    bins = np.minimum((sure * num_bins).astype(int), num_bins - 1)
    distances = np.bincount(bins, right - sure, num_bins)
    return float(np.abs(distances).sum() / sure.size)


def fit_temperature(logprobs: Sequence[Sequence[float]], targets: Sequence[int]) -> float:
    """The temperature at which the targets are likeliest (1706.04599, section 4.2).

    Args:
        logprobs: Log-likelihoods of each user's candidates, at least one user.
        targets: Place of each user's target among them.

    Returns:
        More than 1 where the likelihoods are too sure of themselves, less where they are not sure
        enough.
    """
    table = np.full((len(targets), max(map(len, logprobs))), -np.inf)
    for row, values in zip(table, logprobs, strict=True):
        row[: len(values)] = np.maximum(values, _IMPOSSIBLE)
    own = table[np.arange(len(targets)), np.asarray(targets)]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(scale * table, axis=1) - scale * own))

    found = minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded")
    return float(np.exp(found.x))


def temper(logprobs: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Probabilities at a temperature; 1 only normalises."""
    scaled = np.asarray(logprobs, float) / temperature
    return tuple(np.exp(scaled - logsumexp(scaled)).tolist())
