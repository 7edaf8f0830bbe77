"""The examples of each optimizer step, and its learning rate.

Both depend only on the seed and the step, so they are the same for any number of workers and after
every restart.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from msrrec.config import TrainConfig

Batch = NDArray[np.int64]
"""Indices of what takes a place in a batch: units of an ``ExampleSet``, or single examples."""


def num_steps(num_examples: int, config: TrainConfig) -> int:
    """Optimizer steps of the whole run; the last batch of an epoch may be smaller."""
    return config.num_epochs * math.ceil(num_examples / config.global_batch_size)


def iter_batches(num_examples: int, config: TrainConfig) -> Iterator[tuple[int, Batch]]:
    """The 0-based epoch and the global batch of every step."""
    for epoch in range(config.num_epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(num_examples)
        for start in range(0, num_examples, config.global_batch_size):
            yield epoch, order[start : start + config.global_batch_size]


def share_of_worker(batch: Batch, lengths: NDArray[np.int64], rank: int, world_size: int) -> Batch:
    """The part of a global batch for one worker, longest examples first.

    Examples are dealt by length, so that all workers have about as many tokens.

    Args:
        batch: The global batch.
        lengths: Tokens of every example.
        rank: 0-based rank of the worker.
        world_size: Number of workers.
    """
    longest_first = batch[np.argsort(-lengths[batch], kind="stable")]
    return longest_first[rank::world_size]


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of a 0-based step: a linear rise to the peak, then a cosine towards 0."""
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
