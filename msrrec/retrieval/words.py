"""Words of items weighed by BM25, in one table to which rows are added.

Robertson and Zaragoza 2009, with the idf that is never negative: ln(1 + (N - n + 0.5) / (n + 0.5)).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from msrrec.schema import Item
from msrrec.titles import normalize_title

K1, B = 1.5, 0.75
"""Usual parameters: saturation of a word's count, and penalty of long texts, in [0, 1]."""

IntArray = NDArray[np.int64]
Number = TypeVar("Number", float, NDArray[np.float64])

_WORD = re.compile(r"\w+")


def find_words(text: str) -> list[str]:
    """The words of a text, normalised as titles are."""
    return _WORD.findall(normalize_title(text))


def words_of_item(item: Item) -> list[str]:
    """The words of an item's title, categories and brand; a title is cut as prompts show it."""
    return [
        word
        for text in (item.title, *item.categories, item.brand or "")
        for word in find_words(text)
    ]


def word_rarity(num_texts: int, num_with: int) -> float:
    """The idf of a word that ``num_with`` of all texts have; above 0."""
    return math.log(1 + (num_texts - num_with + 0.5) / (num_with + 0.5))


def bm25_weight(rarity: Number, count: Number, length: Number, k1: float, b: float) -> Number:
    """The weight of a word in a text.

    Args:
        rarity: The word's idf.
        count: How often the text has it.
        length: Number of the text's words divided by the mean over all texts.
        k1: Saturation of the count.
        b: Penalty of long texts, in [0, 1].
    """
    return rarity * count * (k1 + 1) / (count + k1 * (1 - b + b * length))


@dataclass(frozen=True)
class WordTable:
    """How often each item has each word, and the weights that follow.

    Attributes:
        vocabulary: Column of each word.
        counts: Shape (I, V).
        weights: Shape (V, I). BM25 weights, transposed for products with queries.
    """

    vocabulary: Mapping[str, int]
    counts: csr_array
    weights: csr_array

    @classmethod
    def build(cls, items: Sequence[Item]) -> "WordTable":
        """Count the words of items."""
        vocabulary: dict[str, int] = {}
        counts = _count([words_of_item(item) for item in items], vocabulary)
        return cls.weigh(vocabulary, counts)

    @classmethod
    def weigh(cls, vocabulary: Mapping[str, int], counts: csr_array) -> "WordTable":
        """The table of known counts."""
        return cls(vocabulary, counts, _weigh(counts))

    def replace(self, codes: IntArray, items: Sequence[Item]) -> "WordTable":
        """The table with other words for some items; codes beyond the last row append.

        Args:
            codes: Shape (n,). Rows of the items, distinct; those that append have no gaps.
            items: The n items.
        """
        vocabulary = dict(self.vocabulary)
        added = _count([words_of_item(item) for item in items], vocabulary)
        before = self.counts.copy()
        before.resize((before.shape[0], len(vocabulary)))
        places = np.arange(max(before.shape[0], int(codes.max(initial=-1)) + 1))
        places[codes] = before.shape[0] + np.arange(len(codes))
        counts = csr_array(vstack([before, added], format="csr")[places])
        return WordTable.weigh(vocabulary, counts)

    def count_known(self, items: Sequence[Item]) -> csr_array:
        """Shape (number of items, V). How often items outside the table have its words."""
        vocabulary = dict(self.vocabulary)
        counts = _count([words_of_item(item) for item in items], vocabulary)
        return csr_array(counts[:, : len(self.vocabulary)])


def _count(texts: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> csr_array:
    """Counts of words, one row a text; words that ``vocabulary`` lacks are added to it."""
    columns = [vocabulary.setdefault(w, len(vocabulary)) for words in texts for w in words]
    starts = np.cumsum([0, *map(len, texts)])
    ones = np.ones(len(columns), dtype=np.float32)
    shape = (len(texts), len(vocabulary))
    counts = csr_array((ones, np.array(columns, dtype=np.int32), starts), shape=shape)
    counts.sum_duplicates()
    return counts


def _weigh(counts: csr_array) -> csr_array:
    num_texts, num_words = counts.shape
    num_with = np.bincount(counts.indices, minlength=num_words)
    distinct, places = np.unique(num_with, return_inverse=True)
    rarity = np.array([word_rarity(num_texts, int(n)) for n in distinct])[places]
    lengths = np.asarray(counts.sum(axis=1))
    lengths = lengths / max(float(lengths.mean()) if num_texts else 0.0, 1.0)
    rows = np.repeat(lengths, np.diff(counts.indptr))
    values = bm25_weight(rarity[counts.indices], counts.data.astype(np.float64), rows, K1, B)
    shape, data = counts.shape, values.astype(np.float32)
    return csr_array((data, counts.indices, counts.indptr), shape=shape).T.tocsr()
