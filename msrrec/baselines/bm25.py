"""BM25 text similarity: prefers candidates whose titles share rare words with the history.

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
"""BM25's parameters: saturation of a word's count, and penalty of long titles."""

_WORD = re.compile(r"\w+")


class Bm25:
    """Scores are BM25 values of the candidate's title, with titles of the history as queries."""

    def __init__(self, config: RunConfig, uses: Literal["last", "mean"]) -> None:
        """Use the last title of the history, or the mean over all titles."""
        del config
        self._uses = uses
        self._words: dict[str, list[str]] = {}
        self._idf: dict[str, float] = {}
        self._mean_length = 1.0

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Split the catalogue's titles into words and compute the words' weights."""
        del folder
        self._words = {i: _WORD.findall(normalize_title(x.title)) for i, x in dataset.items.items()}
        found = Counter(word for words in self._words.values() for word in set(words))
        total = len(self._words)
        self._idf = {w: math.log(1 + (total - n + 0.5) / (n + 0.5)) for w, n in found.items()}
        self._mean_length = max(sum(map(len, self._words.values())) / max(total, 1), 1.0)
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Each candidate's BM25 value for the last title, or the mean over all titles."""
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
        return math.fsum(found) / len(titles)  # exact: a set's order varies by process
