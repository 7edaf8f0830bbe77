"""An index over a catalogue: histories in, the best items of the whole catalogue out.

An index never changes. ``add`` and ``remove`` return another one, which shares all that did not
change, so one thread may search while another replaces the index that is in use.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from msrrec.config import RetrievalConfig, RetrieverName
from msrrec.errors import DataError
from msrrec.fingerprint import hash_parts
from msrrec.retrieval.catalogue import BoolArray, Catalogue
from msrrec.retrieval.histories import Histories, Purchase, find_allowed, weigh_histories
from msrrec.retrieval.ranking import IntArray, Ranking, fuse_ranks, keep_first
from msrrec.retrieval.retrievers import RankingSpec, Repeats, Retriever
from msrrec.schema import Item

_NUMBERS_AT_ONCE = 1 << 23
"""Scores that are held at once: histories times items."""


@dataclass(frozen=True)
class Retrieved:
    """An item that was found for a history.

    Attributes:
        score: Its score in the union; 0 where it only fills the list up.
        ranks: Its rank, from 1, by each retriever that found it: why it is here.
    """

    item_id: str
    score: float
    ranks: Mapping[RetrieverName, int]


@dataclass(frozen=True)
class Found:
    """What is found for one history, in item codes.

    Attributes:
        union: The fused ranking.
        parts: The ranking of each retriever.
    """

    union: Ranking
    parts: Mapping[RetrieverName, IntArray]


@dataclass(frozen=True)
class Index:
    """A catalogue and the retrievers over it.

    Attributes:
        dataset: Fingerprint of the dataset that it learned from.
        version: What it learned from and every change since, in 16 hexadecimal digits; equal
            changes of equal indexes give equal versions, on every machine.
        settings: The section ``retrieval`` of the settings. ``repeats``, ``weights``,
            ``rank_constant``, ``depth`` and ``decay`` may be others than those it was built with,
            see ``configure``.
        chosen: Weights that validation chose.
        catalogue: All items by code.
        retrievers: Those that were built; a weight of 0 leaves one out of the union.
        buyers: Shape (K,). Number of users who bought each of the first K items.
    """

    dataset: str
    version: str
    settings: RetrievalConfig
    chosen: Mapping[RetrieverName, float]
    catalogue: Catalogue
    retrievers: tuple[Retriever, ...]
    buyers: NDArray[np.float32]

    def search(
        self,
        histories: Sequence[Sequence[Purchase]],
        count: int,
        *,
        excluded: Sequence[Iterable[str]] | None = None,
    ) -> list[list[Retrieved]]:
        """The best items for each history, the best first.

        There are ``count`` for each where the catalogue has so many that are allowed: a list that
        the retrievers don't fill is filled up by popularity. No two have equal titles.

        Args:
            histories: Item ids, oldest first, or items in text where the catalogue lacks them. Ids
                that it lacks say nothing. A history may be empty.
            count: Number of items wanted, at least 1.
            excluded: Ids of further items that may not be found, for each history, such as
                purchases before those that it shows. What the history holds is excluded anyway,
                unless ``repeats`` is set.

        Raises:
            ValueError: If ``count`` is below 1, or ``excluded`` has another length.
        """
        return [self._describe(found) for found in self.rank(histories, count, excluded=excluded)]

    def rank(
        self,
        histories: Sequence[Sequence[Purchase]],
        count: int,
        *,
        excluded: Sequence[Iterable[str]] | None = None,
    ) -> list[Found]:
        """As ``search``, in item codes and with the ranking of each retriever.

        Raises:
            ValueError: If ``count`` is below 1, or ``excluded`` has another length.
        """
        others = [()] * len(histories) if excluded is None else list(excluded)
        if count < 1 or len(others) != len(histories):
            raise ValueError(
                f"count={count} and {len(others)} lists of excluded items for {len(histories)} "
                "histories; expected a count of at least 1, and a list for each history or none"
            )
        size = max(1, _NUMBERS_AT_ONCE // max(len(self.catalogue), 1))
        found: list[Found] = []
        for begin in range(0, len(histories), size):
            part, own = histories[begin : begin + size], others[begin : begin + size]
            found += self._rank_part(part, count, list(map(self._codes_of, own)))
        return found

    def _rank_part(
        self, histories: Sequence[Sequence[Purchase]], count: int, excluded: Sequence[IntArray]
    ) -> list[Found]:
        weighed = weigh_histories(histories, self.catalogue, self.settings.decay)
        repeats = self.settings.repeats
        allowed = find_allowed(weighed, self.catalogue, excluded, repeats=repeats)
        parts = self._rank_parts(weighed, allowed, max(count, self.settings.depth))
        found = []
        for n, may in enumerate(allowed):
            own = {name: rankings[n] for name, rankings in parts.items()}
            found.append(Found(self._unite(own, may, count), own))
        return found

    def _rank_parts(
        self, histories: Histories, allowed: Sequence[BoolArray], depth: int
    ) -> dict[RetrieverName, list[IntArray]]:
        spec = RankingSpec(allowed, self.order, depth)
        return {r.name: r.rank(histories, spec) for r in self.used}

    def _unite(
        self, parts: Mapping[RetrieverName, IntArray], allowed: BoolArray, count: int
    ) -> Ranking:
        weights = [self.weights[name] for name in parts]
        constant = self.settings.rank_constant
        fused = fuse_ranks(list(parts.values()), weights, constant, self.order)
        fused = keep_first(fused, self.catalogue.title_codes)
        if len(fused.codes) < count:
            fused = self._fill(fused, allowed)
        return Ranking(fused.codes[:count], fused.scores[:count])

    def _fill(self, ranking: Ranking, allowed: BoolArray) -> Ranking:
        """The ranking and then all other items that are allowed, by popularity."""
        rest = self.by_popularity[allowed[self.by_popularity]]
        codes = np.concatenate([ranking.codes, rest])
        scores = np.concatenate([ranking.scores, np.zeros(len(rest))])
        return keep_first(Ranking(codes, scores), self.catalogue.title_codes)

    def _describe(self, found: Found) -> list[Retrieved]:
        ranks: dict[int, dict[RetrieverName, int]] = {n: {} for n in found.union.codes.tolist()}
        for name, codes in found.parts.items():
            for rank, code in enumerate(codes.tolist(), 1):
                if code in ranks:
                    ranks[code][name] = rank
        pairs = zip(found.union.codes.tolist(), found.union.scores.tolist(), strict=True)
        items = self.catalogue.items
        return [Retrieved(items[code].item_id, score, ranks[code]) for code, score in pairs]

    def _codes_of(self, item_ids: Iterable[str]) -> IntArray:
        found = (self.catalogue.codes.get(item_id) for item_id in item_ids)
        return np.array([code for code in found if code is not None], dtype=np.int64)

    @cached_property
    def by_popularity(self) -> IntArray:
        """All item codes, those of most buyers first."""
        buyers = np.zeros(len(self.catalogue), dtype=np.float32)
        buyers[: len(self.buyers)] = self.buyers
        return np.argsort(-buyers, kind="stable")

    @cached_property
    def order(self) -> IntArray:
        """Shape (I,). The place of each item in ``by_popularity``, which breaks ties."""
        order = np.empty(len(self.catalogue), dtype=np.int64)
        order[self.by_popularity] = np.arange(len(order))
        return order

    @cached_property
    def weights(self) -> Mapping[RetrieverName, float]:
        """The weight of each retriever: what settings say, else what validation chose, else 1."""
        given = self.settings.weights
        names = [r.name for r in self.retrievers] + ["repeats"] * self.settings.repeats
        return {
            name: self.chosen.get(name, 1.0) if (own := getattr(given, name)) is None else own
            for name in names
        }

    @cached_property
    def used(self) -> tuple[Retriever, ...]:
        """The retrievers with a weight above 0; what was bought before among them if wanted."""
        repeats = (Repeats(),) * self.settings.repeats
        return tuple(r for r in (*self.retrievers, *repeats) if self.weights[r.name] > 0)

    def choose(self, chosen: Mapping[RetrieverName, float], version: str) -> "Index":
        """The index with weights that validation chose, under a version."""
        return replace(self, chosen=chosen, version=version)

    def add(self, items: Iterable[Item]) -> "Index":
        """An index that has these items too; a known id gets the new text, and is offered again.

        A new item is found by its text; what is bought with it is known when the index is built
        again.

        Raises:
            DataError: If an item has no id or no visible title.
            ModelError: If titles must be embedded and the model can't be loaded.
        """
        listed = list(items)
        if not listed:
            return self
        catalogue, codes = self.catalogue.replace(listed)
        changed = [str(sorted(asdict(catalogue.items[code]).items())) for code in codes]
        return replace(
            self,
            version=hash_parts([self.version, "add", *changed]),
            catalogue=catalogue,
            retrievers=tuple(r.follow(catalogue, codes) for r in self.retrievers),
        )

    def remove(self, item_ids: Iterable[str]) -> "Index":
        """An index that finds these items no more; in histories they still say something.

        Raises:
            DataError: If an item is unknown or not offered.
        """
        listed = list(dict.fromkeys(item_ids))
        if not listed:
            return self
        catalogue = self.catalogue.withdraw(listed)
        return replace(
            self, version=hash_parts([self.version, "remove", *listed]), catalogue=catalogue
        )

    def configure(self, settings: RetrievalConfig) -> "Index":
        """The index with other settings of the search; those of building stay as they are."""
        names = ("repeats", "weights", "rank_constant", "depth", "decay")
        changed = {name: getattr(settings, name) for name in names}
        return replace(self, settings=self.settings.model_copy(update=changed))

    def describe(self) -> dict[str, object]:
        """Version, number of items and weights, in JSON values."""
        return {
            "version": self.version,
            "num_items": int(self.catalogue.is_offered.sum()),
            "weights": dict(self.weights),
        }

    def require_dataset(self, fingerprint: str, where: str) -> None:
        """Refuse what was made from another dataset, such as a model.

        Args:
            fingerprint: Fingerprint of the dataset that it was made from.
            where: What it is, for the message.

        Raises:
            DataError: If it is another one.
        """
        if fingerprint != self.dataset:
            raise DataError(
                f"{where}: was made from dataset {fingerprint[:12]}, the index from "
                f"{self.dataset[:12]}; expected the same, so run `msrrec index` on that dataset"
            )
