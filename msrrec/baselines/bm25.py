"""Text similarity by BM25: the candidate whose title shares rare words with the history's titles.

Robertson and Zaragoza 2009, with the idf that is never negative: ln(1 + (N - n + 0.5) / (n + 0.5)).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.schema import Example
from msrrec.titles import normalize_title

K1, B = 1.5, 0.75
"""Saturation of a word's count, and how much long titles are held against themselves."""

_WORD = re.compile(r"\w+")


class Bm25:
    """Scores are BM25 of the candidate's title for a title of the history as the query."""

    def __init__(self, config: RunConfig, uses: Literal["last", "mean"]) -> None:
        """Take the last title of the history alone, or the mean over all of them."""
        del config
        self._uses = uses
        self._words: dict[str, list[str]] = {}
        self._idf: dict[str, float] = {}
        self._mean_length = 1.0

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Split the catalogue's titles into words and weigh these."""
        del folder
        self._words = {i: _WORD.findall(normalize_title(x.title)) for i, x in dataset.items.items()}
        found = Counter(word for words in self._words.values() for word in set(words))
        total = len(self._words)
        self._idf = {w: math.log(1 + (total - n + 0.5) / (n + 0.5)) for w, n in found.items()}
        self._mean_length = max(sum(map(len, self._words.values())) / max(total, 1), 1.0)
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """The last title's score of each candidate, or the mean of all titles'."""
        return [[self._score(e.history, item) for item in e.candidates] for e in examples]

    def _score(self, history: Sequence[str], candidate: str) -> float:
        counts = Counter(self._words[candidate])
        length = len(self._words[candidate]) / self._mean_length
        titles = history[-1:] if self._uses == "last" else history
        weights = {
            word: self._idf[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * length))
            for word, n in counts.items()
        }
        queries = [set(self._words[item_id]) for item_id in titles]
        found = (weights[word] for query in queries for word in query & weights.keys())
        return math.fsum(found) / len(titles)  # exact: the order of a set differs between processes
