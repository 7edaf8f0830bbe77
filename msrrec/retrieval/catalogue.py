"""The items that an index knows, by code; some of them are no longer offered.

A code is a row of every table of the index and never changes its item. An item that is removed
keeps its code: it may stand in histories, and what was bought with it still tells something.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from msrrec.errors import DataError
from msrrec.schema import Item
from msrrec.titles import clean_title, normalize_title

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Catalogue:
    """Items by code.

    Attributes:
        items: Shape (I,).
        codes: Code of each item id.
        is_offered: Shape (I,). Whether an item may be found.
        title_codes: Shape (I,). Equal for items whose titles are equal after normalisation, which
            nobody can tell apart.
        titles: The number in ``title_codes`` of each normalised title.
    """

    items: tuple[Item, ...]
    codes: Mapping[str, int]
    is_offered: BoolArray
    title_codes: IntArray
    titles: Mapping[str, int]

    @classmethod
    def build(cls, items: Iterable[Item], is_offered: BoolArray | None = None) -> "Catalogue":
        """The catalogue of some items in their order; all are offered unless said otherwise."""
        nothing = np.empty(0, dtype=np.int64)
        found, _ = cls((), {}, nothing.astype(bool), nothing, {}).replace(list(items))
        return found if is_offered is None else replace(found, is_offered=is_offered)

    def __len__(self) -> int:
        return len(self.items)

    def replace(self, items: Sequence[Item]) -> tuple["Catalogue", IntArray]:
        """The catalogue with more items, and their codes; known ids get the new text.

        Of several items with one id the last one counts; all are offered afterwards.

        Raises:
            DataError: If an item has no id, or a title without visible characters.
        """
        wanted = {item.item_id: item for item in map(_check, items)}
        codes, titles = dict(self.codes), dict(self.titles)
        places = [codes.setdefault(item_id, len(codes)) for item_id in wanted]
        found = [*self.items, *[None] * (len(codes) - len(self.items))]
        is_offered = np.concatenate([self.is_offered, np.ones(len(found) - len(self), dtype=bool)])
        title_codes = np.concatenate(
            [self.title_codes, np.zeros(len(found) - len(self), dtype=np.int64)]
        )
        for code, item in zip(places, wanted.values(), strict=True):
            found[code], is_offered[code] = item, True
            title_codes[code] = titles.setdefault(normalize_title(item.title), len(titles))
        known = tuple(item for item in found if item is not None)
        return Catalogue(known, codes, is_offered, title_codes, titles), np.array(places, np.int64)

    def withdraw(self, item_ids: Iterable[str]) -> "Catalogue":
        """The catalogue in which some items are no longer offered.

        Raises:
            DataError: If an id is unknown or its item is not offered.
        """
        is_offered = self.is_offered.copy()
        for item_id in dict.fromkeys(item_ids):
            code = self.codes.get(item_id)
            if code is None or not is_offered[code]:
                raise DataError(
                    f"item {item_id!r}: the index does not offer it; expected an id of its items"
                )
            is_offered[code] = False
        return replace(self, is_offered=is_offered)

    def find_title(self, title: str) -> list[str]:
        """The ids of the items offered whose title equals this one after normalisation."""
        place = self.titles.get(normalize_title(title))
        if place is None:
            return []
        codes = np.flatnonzero((self.title_codes == place) & self.is_offered)
        return [self.items[code].item_id for code in codes]


def _check(item: Item) -> Item:
    """The item with its title as prompts show it, so that a long one costs nothing later."""
    title = clean_title(item.title)
    if not item.item_id or not title:
        what = "the id is empty" if not item.item_id else "its title has no visible character"
        raise DataError(
            f"item {item.item_id!r}: {what}; expected an id and a title, so leave the item out "
            "or correct it"
        )
    return replace(item, title=title)
