"""Examples of a micro-batch in one row, without padding; each attends to itself alone.

Positions restart with every example and attention runs per example, so a packed row gives what the
examples give one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from msrrec.training.loss import NOT_SUPERVISED, REASONING, RECOMMENDATION

Pair = tuple[NDArray[np.int32], NDArray[np.int8]]
"""Token ids and segments of one example, each (T,)."""


@dataclass(frozen=True)
class Packed:
    """A row of examples. T = its tokens, S = those that are supervised, K = those of all tails.

    The tail of an example begins at the first place whose logits are needed.

    Attributes:
        input_ids: (1, T).
        position_ids: (1, T). 0 at the beginning of every example.
        lengths: Tokens of each example, in order; they sum to T.
        starts: First token of each example's tail; its length where nothing is supervised.
        tails: (K,). Places of all tails.
        rows: (S,). Places whose logits are needed: each just before a supervised token.
        rows_of_tails: (S,). The same places, counted within the tails.
        targets: (S,). Those supervised tokens.
        shares: (2, S), float32. See ``loss.packed_loss``.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    tails: torch.Tensor
    rows: torch.Tensor
    rows_of_tails: torch.Tensor
    targets: torch.Tensor
    shares: torch.Tensor


@dataclass(frozen=True)
class RoundedSizes:
    """The multiples that sizes of a packed row are rounded up to, with tokens that train nothing.

    The processor's matrix library caches a kernel of some megabytes for every shape. Rounded sizes
    recur, so the cache stays small and is hit.
    """

    example: int = 1
    """Tokens of one example and of its tail; its own causal attention keeps the added ones from
    being seen."""
    row: int = 1
    """Tokens of a row; the added ones are an example of their own."""
    supervised: int = 1
    """Supervised tokens of a row; the added ones repeat the last and have no share in any loss."""


EXACT = RoundedSizes()
COARSE = RoundedSizes(example=32, row=128, supervised=32)


def pack(
    pairs: Sequence[Pair], device: torch.device | str = "cpu", sizes: RoundedSizes = EXACT
) -> Packed:
    """The row of some examples, at least one; none may begin with a supervised token."""
    padded = [_pad(pair, _lack(len(pair[0]), sizes.example)) for pair in pairs]
    rest = _lack(sum(len(ids) for ids, _ in padded), sizes.row)
    if rest:
        padded.append((np.zeros(rest, np.int32), np.zeros(rest, np.int8)))
    lengths = tuple(len(ids) for ids, _ in padded)
    ids = np.concatenate([ids for ids, _ in padded])
    segments = np.concatenate([segments for _, segments in padded])
    shares = np.concatenate([span_shares(segments) for _, segments in padded], axis=1)
    supervised = np.flatnonzero(segments != NOT_SUPERVISED)
    starts = tuple(_start_of_tail(segments, sizes.example) for _, segments in padded)
    tails = np.flatnonzero(_positions(lengths) >= np.repeat(starts, lengths))
    idle = _lack(len(supervised), sizes.supervised)
    targets, rows = (np.pad(x, (0, idle), "edge") for x in (ids[supervised], supervised - 1))
    return Packed(
        input_ids=_tensor(ids, torch.int64, device)[None],
        position_ids=_tensor(_positions(lengths), torch.int64, device)[None],
        lengths=lengths,
        starts=starts,
        tails=_tensor(tails, torch.int64, device),
        rows=_tensor(rows, torch.int64, device),
        rows_of_tails=_tensor(np.searchsorted(tails, rows), torch.int64, device),
        targets=_tensor(targets, torch.int64, device),
        shares=_tensor(np.pad(shares[:, supervised], ((0, 0), (0, idle))), torch.float32, device),
    )


def span_shares(segments: NDArray[np.int8]) -> NDArray[np.float64]:
    """1 / span length at each token of the reasoning (row 0) and of the recommendation (row 1).

    Args:
        segments: (T,).

    Returns:
        (2, T). Each row sums to 1, or to 0 where the example lacks that span.
    """
    spans = np.stack([segments == REASONING, segments == RECOMMENDATION])
    shares: NDArray[np.float64] = spans / np.maximum(spans.sum(axis=1, keepdims=True), 1)
    return shares


def _start_of_tail(segments: NDArray[np.int8], multiple: int) -> int:
    """The place before the first supervised token, rounded down; the length without any."""
    supervised = np.flatnonzero(segments != NOT_SUPERVISED)
    return int(supervised[0] - 1) // multiple * multiple if len(supervised) else len(segments)


def _pad(pair: Pair, count: int) -> Pair:
    return np.pad(pair[0], (0, count)), np.pad(pair[1], (0, count))


def _lack(size: int, multiple: int) -> int:
    """What is lacking to the next multiple."""
    return -size % multiple


def _positions(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(length) for length in lengths])


def _tensor(
    values: NDArray[np.generic], dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    return torch.from_numpy(values).to(device=device, dtype=dtype)
