"""BM25 text similarity: prefers candidates whose titles share rare words with the history.

Robertson and Zaragoza 2009, with the idf that is never negative: ln(1 + (N - n + 0.5) / (n + 0.5)).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.baselines.choosing import choose_settings, draw_settings
from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.retrieval.words import K1, B, bm25_weight, find_words, word_rarity
from msrrec.schema import Example

SPACE = {
    "k1": (0.5, 1.0, 1.5, 2.0),
    "b": (0.0, 0.25, 0.5, 0.75, 1.0),
    "uses": ("last", "mean", "max"),
}
"""Values that ``bm25-tuned`` tries."""


@dataclass(frozen=True)
class Weighing:
    """BM25's parameters and how titles of the history are pooled.

    Attributes:
        k1: Saturation of a word's count.
        b: Penalty of long titles, in [0, 1].
        uses: The last title of the history, or the mean or maximum over all titles.
    """

    k1: float = K1
    b: float = B
    uses: Literal["last", "mean", "max"] = "mean"


class Bm25:
    """Scores are BM25 values of the candidate's title, with titles of the history as queries."""

    def __init__(self, config: RunConfig, uses: Literal["last", "mean"] = "mean") -> None:
        """Use the last title of the history, or the mean over all titles."""
        del config
        self._weighing = Weighing(uses=uses)
        self._words: dict[str, list[str]] = {}
        self._idf: dict[str, float] = {}
        self._mean_length = 1.0

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Split the catalogue's titles into words and compute the words' weights."""
        del folder
        self._words = {i: find_words(item.title) for i, item in dataset.items.items()}
        found = Counter(word for words in self._words.values() for word in set(words))
        total = len(self._words)
        self._idf = {word: word_rarity(total, n) for word, n in found.items()}
        self._mean_length = max(sum(map(len, self._words.values())) / max(total, 1), 1.0)
        return {}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Each candidate's BM25 value for the titles of the history."""
        return self._score_all(self._weighing, examples)

    def _score_all(self, weighing: Weighing, examples: Sequence[Example]) -> list[list[float]]:
        return [[self._score(weighing, e.history, item) for item in e.candidates] for e in examples]

    def _score(self, weighing: Weighing, history: Sequence[str], candidate: str) -> float:
        counts = Counter(self._words[candidate])
        length = len(self._words[candidate]) / self._mean_length
        titles = history[-1:] if weighing.uses == "last" else history
        k1, b = weighing.k1, weighing.b
        weights = {
            word: bm25_weight(self._idf[word], float(n), length, k1, b)
            for word, n in counts.items()
        }
        queries = [set(self._words[item_id]) for item_id in titles]
        if weighing.uses == "max":
            return max(math.fsum(weights[w] for w in query & weights.keys()) for query in queries)
        found = (weights[word] for query in queries for word in query & weights.keys())
        return math.fsum(found) / len(titles)  # exact: a set's order varies by process


class TunedBm25(Bm25):
    """BM25 whose parameters and pooling validation chooses."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        count, seed = config.baselines.trials, config.inference.seed
        self._trials = draw_settings(Weighing(), SPACE, count, seed)

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Weigh the catalogue's words, and choose the settings."""
        super().fit(dataset, folder)
        self._weighing, facts = choose_settings(self._trials, dataset, self._score_all)
        return facts
