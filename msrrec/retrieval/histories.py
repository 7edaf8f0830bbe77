"""Histories as rows of one matrix, in which later purchases weigh more.

Shapes: B = histories, I = items of the catalogue, S = purchases outside it (strangers).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from msrrec.retrieval.catalogue import BoolArray, Catalogue
from msrrec.schema import Item

IntArray = NDArray[np.int64]

Purchase = str | Item
"""A purchase of a history: an item id, or an item that the catalogue may lack, known by its
text."""

_LEAST_WEIGHT = 1e-6
"""Purchases that weigh less are left out, so that a history of thousands costs no more than its
latest ones."""


@dataclass(frozen=True)
class Histories:
    """Several histories.

    Attributes:
        weights: Shape (B, I). 1 for the latest purchase, and less for each one before it; a sum for
            an item bought several times.
        strangers: Items outside the catalogue that the histories hold, in text alone.
        stranger_weights: Shape (B, S).
        sequences: Codes of each history's items that the catalogue knows, oldest first.
    """

    weights: csr_array
    strangers: tuple[Item, ...]
    stranger_weights: csr_array
    sequences: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.sequences)


def weigh_histories(
    histories: Sequence[Sequence[Purchase]], catalogue: Catalogue, decay: float
) -> Histories:
    """Histories, each oldest first, with a weight of ``decay`` to the number of later purchases.

    An id that the catalogue lacks says nothing, but keeps its place; an item that it lacks is known
    by its text.
    """
    strangers: dict[Item, int] = {}
    rows = [_places(history, catalogue, strangers) for history in histories]
    size = len(catalogue)
    weights = _matrix(rows, decay, size + len(strangers))
    sequences = tuple(row[(row >= 0) & (row < size)] for row in rows)
    if not strangers:  # a shortcut, as slicing takes longer than a product
        return Histories(weights, (), csr_array((len(rows), 0)), sequences)
    return Histories(weights[:, :size], tuple(strangers), weights[:, size:], sequences)


def _places(
    history: Sequence[Purchase], catalogue: Catalogue, strangers: dict[Item, int]
) -> IntArray:
    """The column of each purchase; -1 for an unknown id."""
    places = np.full(len(history), -1, dtype=np.int64)
    for n, purchase in enumerate(history):
        item_id = purchase.item_id if isinstance(purchase, Item) else purchase
        code = catalogue.codes.get(item_id)
        if code is not None:
            places[n] = code
        elif isinstance(purchase, Item):
            places[n] = len(catalogue) + strangers.setdefault(purchase, len(strangers))
    return places


def _matrix(rows: Sequence[IntArray], decay: float, width: int) -> csr_array:
    owners, columns, values = [], [], []
    for owner, row in enumerate(rows):
        weights = decay ** np.arange(len(row) - 1, -1, -1.0)
        kept = (row >= 0) & (weights >= _LEAST_WEIGHT)
        owners.append(np.full(np.count_nonzero(kept), owner))
        columns.append(row[kept])
        values.append(weights[kept].astype(np.float32))
    nothing = np.empty(0, dtype=np.int64)
    places = np.concatenate([*owners, nothing]), np.concatenate([*columns, nothing])
    found = np.concatenate([*values, np.empty(0, np.float32)])
    matrix = csr_array((found, places), shape=(len(rows), width))
    matrix.sum_duplicates()
    return matrix


def find_allowed(
    histories: Histories, catalogue: Catalogue, excluded: Sequence[IntArray], *, repeats: bool
) -> list[BoolArray]:
    """Which items may be found for each history, shape (I,) each.

    Items that are offered, but for those bought and those excluded and whatever has the title of
    one of them, as it is the same thing under another id.

    Args:
        histories: The histories.
        catalogue: The catalogue.
        excluded: Codes of further items that may not be found, for each history.
        repeats: Whether what was bought may be found again.
    """
    found = []
    for bought, others in zip(histories.sequences, excluded, strict=True):
        codes = others if repeats else np.concatenate([bought, others])
        has_title = np.zeros(len(catalogue.titles), dtype=bool)
        has_title[catalogue.title_codes[codes]] = True
        found.append(catalogue.is_offered & ~has_title[catalogue.title_codes])
    return found
