"""Retrievers: each ranks the items of a catalogue for histories in its own way.

Shapes: B = histories, I = items, K = items that were bought when the index was built; their codes
come first, so items that are added later lie beyond a matrix of shape (K, K).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from msrrec.config import RetrieverName
from msrrec.retrieval.catalogue import BoolArray, Catalogue
from msrrec.retrieval.histories import Histories
from msrrec.retrieval.ranking import FloatArray, IntArray, take_best
from msrrec.retrieval.vectors import TextEncoder
from msrrec.retrieval.words import WordTable
from msrrec.titles import clean_title


@dataclass(frozen=True)
class RankingSpec:
    """What a retriever is to find.

    Attributes:
        allowed: Shape (I,) each. Which items may be found for each history.
        order: Shape (I,). Place of each item among equal scores.
        count: Number of items wanted for each history.
    """

    allowed: Sequence[BoolArray]
    order: IntArray
    count: int


class Retriever(Protocol):
    """One way to find items."""

    @property
    def name(self) -> RetrieverName:
        """What settings and results call it."""
        ...

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The codes of the items that it finds for each history, the best first.

        Fewer than wanted, or none, where nothing points at more.
        """
        ...

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "Retriever":
        """The same for a catalogue in which the items of some codes are new or have other texts."""
        ...


def rank_sparse(scores: csr_array, spec: RankingSpec) -> list[IntArray]:
    """The best items of each row, shape (B, at most I), among those with a score above 0."""
    found = []
    for row, allowed in enumerate(spec.allowed):
        begin, end = scores.indptr[row], scores.indptr[row + 1]
        codes, values = scores.indices[begin:end].astype(np.int64), scores.data[begin:end]
        kept = allowed[codes] & (values > 0)
        found.append(take_best(codes[kept], values[kept], spec.order, spec.count))
    return found


def rank_dense(
    scores: FloatArray, is_known: BoolArray, is_ranked: BoolArray, spec: RankingSpec
) -> list[IntArray]:
    """The best items of each row, shape (B, I), whatever their score.

    Args:
        scores: One row a history.
        is_known: Shape (I,). Items that have a score at all.
        is_ranked: Shape (B,). Histories that say anything; the others get no ranking.
        spec: What is to be found.
    """
    found = []
    for row, allowed, ranked in zip(scores, spec.allowed, is_ranked, strict=True):
        codes = np.flatnonzero(allowed & is_known) if ranked else np.empty(0, np.int64)
        found.append(take_best(codes, row[codes], spec.order, spec.count))
    return found


@dataclass(frozen=True)
class ItemToItem:
    """Sums a row of scores for each purchase: transitions and co-purchase.

    Attributes:
        matrix: Shape (K, K). The score of the column's item after the row's item.
    """

    name: RetrieverName
    matrix: csr_array

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The items with the highest weighted sums."""
        known, num_known = histories.weights, self.matrix.shape[0]
        if known.shape[1] > num_known:  # items were added
            known = known[:, :num_known]
        return rank_sparse(csr_array(known @ self.matrix), spec)

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "ItemToItem":
        """Itself, as a new item has no purchases yet."""
        del catalogue, codes
        return self


@dataclass(frozen=True)
class Repeats:
    """Finds what the user bought before: often, and lately."""

    name: RetrieverName = "repeats"

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The items of the history by their weights."""
        return rank_sparse(histories.weights, spec)

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "Repeats":
        """Itself."""
        del catalogue, codes
        return self


@dataclass(frozen=True)
class Popularity:
    """Finds what most users bought.

    Attributes:
        buyers: Shape (K,). Number of users who bought each item.
    """

    buyers: NDArray[np.float32]
    name: RetrieverName = "popularity"

    @cached_property
    def ranked(self) -> IntArray:
        """The items that anybody bought, those of most buyers first."""
        order = np.argsort(-self.buyers, kind="stable")
        return order[self.buyers[order] > 0]

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The same ranking for everybody, without what is not allowed."""
        return [self.ranked[allowed[self.ranked]][: spec.count] for allowed in spec.allowed]

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "Popularity":
        """Itself, as a new item has no buyers yet."""
        del catalogue, codes
        return self


@dataclass(frozen=True)
class Words:
    """Finds items that share rare words with the history; a cold item is found like any other."""

    table: WordTable
    name: RetrieverName = "words"

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The items with the highest BM25 values, each title of the history being a query."""
        queries = histories.weights @ self._binary
        if histories.strangers:
            others = _to_binary(self.table.count_known(histories.strangers))
            queries = queries + histories.stranger_weights @ others
        return rank_sparse(csr_array(queries @ self.table.weights), spec)

    @cached_property
    def _binary(self) -> csr_array:
        return _to_binary(self.table.counts)

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "Words":
        """The same with the words of those items."""
        items = [catalogue.items[code] for code in codes]
        return Words(self.table.replace(codes, items))


def _to_binary(counts: csr_array) -> csr_array:
    ones = np.ones_like(counts.data, dtype=np.float32)
    return csr_array((ones, counts.indices, counts.indptr), shape=counts.shape)


@dataclass(frozen=True)
class Embedding:
    """Finds items whose titles are near those of the history in the space of a language model.

    Attributes:
        vectors: Shape (I, D). Of length 1.
        encoder: What turns titles into vectors.
    """

    vectors: NDArray[np.float32]
    encoder: TextEncoder = field(repr=False)
    name: RetrieverName = "embedding"

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The items with the largest weighted mean of cosines with the history's titles."""
        queries = histories.weights @ self.vectors
        if histories.strangers:
            titles = [clean_title(item.title) for item in histories.strangers]
            queries = queries + histories.stranger_weights @ self.encoder.encode(titles)
        says_something = np.abs(queries).sum(axis=1) > 0
        is_known = np.ones(len(self.vectors), dtype=bool)
        return rank_dense(queries @ self.vectors.T, is_known, says_something, spec)

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "Embedding":
        """The same with the vectors of those items."""
        missing = len(catalogue) - len(self.vectors)
        size = self.vectors.shape[1]
        vectors = np.concatenate([self.vectors, np.zeros((missing, size), dtype=np.float32)])
        if len(codes):
            vectors[codes] = self.encoder.encode([catalogue.items[code].title for code in codes])
        return replace(self, vectors=vectors)
