"""Packs the examples of a micro-batch into one row without padding.

Positions restart with every example, and each example attends to itself alone, so a packed row
gives the same results as its examples one by one.
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
    """A packed row. T = its tokens, S = its supervised tokens, K = tokens of all tails.

    The tail of an example begins at the first position whose logits are needed.

    Attributes:
        input_ids: (1, T).
        position_ids: (1, T). 0 at the beginning of every example.
        lengths: Tokens of each example, in order; they sum to T.
        starts: First token of each example's tail; the example's length if nothing is supervised.
        tails: (K,). Positions of all tails' tokens in the row.
        rows: (S,). Positions whose logits are needed, each just before a supervised token.
        rows_of_tails: (S,). The same positions, counted within the tails.
        targets: (S,). The supervised tokens.
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
    """Multiples that the sizes of a packed row are rounded up to, with tokens that train nothing.

    The CPU's matrix library caches some megabytes for every new shape. With rounded sizes few
    shapes occur, so the cache stays small.
    """

    example: int = 1
    """Multiple for the tokens of one example and of its tail. Causal attention keeps the example
    from seeing the added tokens."""
    row: int = 1
    """Multiple for the tokens of a row; the added tokens form an example of their own."""
    supervised: int = 1
    """Multiple for the supervised tokens of a row; the added ones repeat the last and have no share
    in the loss."""


EXACT = RoundedSizes()
COARSE = RoundedSizes(example=32, row=128, supervised=32)


def pack(
    pairs: Sequence[Pair], device: torch.device | str = "cpu", sizes: RoundedSizes = EXACT
) -> Packed:
    """The packed row of one or more examples; none may begin with a supervised token."""
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
        (2, T). Each row sums to 1, or to 0 if the example lacks that span.
    """
    spans = np.stack([segments == REASONING, segments == RECOMMENDATION])
    shares: NDArray[np.float64] = spans / np.maximum(spans.sum(axis=1, keepdims=True), 1)
    return shares


def _start_of_tail(segments: NDArray[np.int8], multiple: int) -> int:
    """The position before the first supervised token, rounded down; the length if there is none."""
    supervised = np.flatnonzero(segments != NOT_SUPERVISED)
    return int(supervised[0] - 1) // multiple * multiple if len(supervised) else len(segments)


def _pad(pair: Pair, count: int) -> Pair:
    return np.pad(pair[0], (0, count)), np.pad(pair[1], (0, count))


def _lack(size: int, multiple: int) -> int:
    """How many tokens are missing to the next multiple."""
    return -size % multiple


def _positions(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(length) for length in lengths])


def _tensor(
    values: NDArray[np.generic], dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    return torch.from_numpy(values).to(device=device, dtype=dtype)
