"""A graph heuristic (2605.07125): what is few steps from the last purchases, ranked by likeness.

Nothing is trained. Items that a user bought one after the other in training are linked. A candidate
that fewer steps part from the last one or two purchases comes first, and among candidates as near
the one whose words are most like theirs: the cosine of rarity-weighted words of title, categories
and brand. Settings are chosen on validation.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msrrec.baselines.choosing import choose_settings, draw_settings
from msrrec.baselines.interface import Facts
from msrrec.baselines.purchases import training_purchases
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.retrieval.words import find_words
from msrrec.schema import Example, Item

SPACE = {"num_last": (1, 2), "num_steps": (1, 2, 3), "both_ways": (False, True)}
"""Values that are tried: purchases to start from, steps, and whether links work in both ways."""


@dataclass(frozen=True)
class Walk:
    """Settings of the heuristic, see ``SPACE``."""

    num_last: int = 2
    num_steps: int = 2
    both_ways: bool = False


class Graph:
    """Scores are steps saved, and the likeness in [0, 1] as the part after the point."""

    def __init__(self, config: RunConfig) -> None:
        self._trials = draw_settings(Walk(), SPACE, config.baselines.trials, config.inference.seed)
        self._walk = Walk()
        self._links: dict[str, set[str]] = defaultdict(set)
        self._reversed: dict[str, set[str]] = defaultdict(set)
        self._words: dict[str, dict[str, float]] = {}

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Link the items, weigh their words, and choose the settings."""
        del folder
        for items in training_purchases(dataset).values():
            for before, after in pairwise(items):
                self._links[before].add(after)
                self._reversed[after].add(before)
        self._words = weigh_words(dataset.items)
        self._walk, facts = choose_settings(self._trials, dataset, self._score_all)
        return facts

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """Steps saved plus likeness of each candidate; at most ``num_steps`` + 1."""
        return self._score_all(self._walk, examples)

    def _score_all(self, walk: Walk, examples: Sequence[Example]) -> list[list[float]]:
        return [self._score(walk, example) for example in examples]

    def _score(self, walk: Walk, example: Example) -> list[float]:
        last = example.history[-walk.num_last :]
        distances = self._walk_from(last, walk)
        far = walk.num_steps + 1
        return [
            far - distances.get(item, far) + self._likeness(item, last)
            for item in example.candidates
        ]

    def _walk_from(self, starts: Sequence[str], walk: Walk) -> dict[str, int]:
        """The fewest steps, from 1, to every item within reach."""
        found: dict[str, int] = {}
        reached = set(starts)
        for step in range(1, walk.num_steps + 1):
            reached = {after for item in reached for after in self._after(item, walk)}
            for item in reached:
                found.setdefault(item, step)
        return found

    def _after(self, item: str, walk: Walk) -> set[str]:
        after = self._links.get(item, set())
        return after | self._reversed.get(item, set()) if walk.both_ways else after

    def _likeness(self, candidate: str, last: Sequence[str]) -> float:
        """The mean cosine with the last purchases, slightly below 1 at most."""
        own = self._words[candidate]
        vectors = [self._words[item] for item in last]
        cosines = [
            math.fsum(own[word] * words[word] for word in own.keys() & words.keys())
            for words in vectors
        ]
        return min(sum(cosines) / len(cosines), 1.0 - 1e-9)


def weigh_words(items: Mapping[str, Item]) -> dict[str, dict[str, float]]:
    """Each item's words with their rarity as weights, as a vector of length 1."""
    words = {
        item_id: sorted({*find_words(" ".join((item.title, *item.categories, item.brand or "")))})
        for item_id, item in items.items()
    }
    counts = Counter(word for found in words.values() for word in found)
    vectors = {}
    for item_id, found in words.items():
        weights = {word: math.log(1 + len(items) / counts[word]) for word in found}
        length = math.sqrt(math.fsum(w * w for w in weights.values()))
        vectors[item_id] = {word: weight / length for word, weight in weights.items()}
    return vectors
