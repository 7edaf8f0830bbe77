"""Recommendations that were made ahead of time, by user, and what is known of the users since."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from msrrec import schema, storage
from msrrec.fingerprint import hash_bytes
from msrrec.recommendations.rows import Offer, read_offers, read_recommendations
from msrrec.titles import normalize_title
from serve.http_models import MAX_HISTORY

logger = logging.getLogger(f"msrrec.{__name__}")

MAX_CHANGED_USERS = 100_000
"""Users whose later purchases are kept; the longest unchanged are forgotten first."""
_REPEATED = ("side", "model", "index", schema.USER_ID, schema.ITEM_ID, schema.TITLE)
"""Columns whose values repeat, which are kept as numbers of a list."""


@dataclass(frozen=True)
class ChangedUser:
    """A user who bought something since the recommendations were made.

    Attributes:
        history: Item ids or titles, oldest first.
        bought: Those among them that were bought since.
        offers: What was recommended since; None while that is not done.
    """

    history: tuple[str, ...]
    bought: frozenset[str]
    offers: tuple[Offer, ...] | None = None


class StoredOffers:
    """A folder of recommendations in memory, some hundred bytes an offer.

    Attributes:
        identity: Differs between two runs that made recommendations.
    """

    def __init__(self, folder: str) -> None:
        """Read a folder that ``msrrec recommend`` wrote.

        Raises:
            DataError: If it is not one.
        """
        table = pa.concat_tables(
            map(_compress, read_recommendations(folder)), promote_options="none"
        )
        self.identity = hash_bytes(storage.read_bytes(storage.join(folder, storage.RECORD)))
        self._table = table.unify_dictionaries()
        users = self._table[schema.USER_ID].combine_chunks()
        codes = users.indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        ends = [*starts[1:].tolist(), len(codes)]
        names = users.dictionary.take(pa.array(codes[starts])).to_pylist()
        self._rows = dict(zip(names, zip(starts.tolist(), ends, strict=True), strict=True))
        self._changed: OrderedDict[str, ChangedUser] = OrderedDict()
        logger.info("%s: holds recommendations for %d users", folder, len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, user_id: str) -> list[Offer] | None:
        """What a user is offered, without what was bought since; None for an unknown user."""
        changed = self._changed.get(user_id)
        if changed is not None and changed.offers is not None:
            return list(changed.offers)
        offers = self._read(user_id)
        if offers is None or changed is None:
            return offers
        titles = set(map(normalize_title, changed.bought))
        left = [
            offer
            for offer in offers
            if offer.item_id not in changed.bought and normalize_title(offer.title) not in titles
        ]
        return [replace(offer, rank=rank) for rank, offer in enumerate(left, 1)]

    def history(self, user_id: str) -> tuple[str, ...] | None:
        """The latest purchases of a user, oldest first; None for an unknown user."""
        if changed := self._changed.get(user_id):
            return changed.history
        return self.made_for(user_id) if user_id in self._rows else None

    def made_for(self, user_id: str) -> tuple[str, ...]:
        """The purchases that a user's recommendations were made from; none for an unknown user."""
        offers = self._read(user_id)
        return offers[0].history or () if offers else ()

    def add_purchases(self, user_id: str, bought: Sequence[str]) -> tuple[str, ...]:
        """Keep what a user bought, and return the history with it."""
        history = (*(self.history(user_id) or ()), *bought)[-MAX_HISTORY:]
        before = self._changed.pop(user_id, None)
        all_bought = frozenset(bought) | (before.bought if before else frozenset())
        self._changed[user_id] = ChangedUser(history, all_bought)
        while len(self._changed) > MAX_CHANGED_USERS:
            self._changed.popitem(last=False)
        return history

    def changed(self, user_id: str) -> ChangedUser | None:
        """What is known of a user since the recommendations were made; None without purchases."""
        return self._changed.get(user_id)

    def replace(self, user_id: str, history: tuple[str, ...], offers: Sequence[Offer]) -> None:
        """Keep new offers, unless the user bought something else meanwhile."""
        changed = self._changed.get(user_id)
        if changed is not None and changed.history == history:
            self._changed[user_id] = replace(changed, offers=tuple(offers))

    def _read(self, user_id: str) -> list[Offer] | None:
        rows = self._rows.get(user_id)
        if rows is None:
            return None
        return read_offers(self._table.slice(rows[0], rows[1] - rows[0]))


def _compress(table: pa.Table) -> pa.Table:
    for name in _REPEATED:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].dictionary_encode())
    return table
