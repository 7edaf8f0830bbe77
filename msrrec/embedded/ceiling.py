"""The Bayes ceiling of a generated world: the HitRatio@1 of the best possible choice.

A world's probabilities are known, so the chance that a candidate came next, given the shown history
and the candidates, can be computed: the probability of each candidate over the shopper's possible
groups and makers, weighted by how likely they make the history. As negatives are drawn uniformly
from what the user never bought, which of the candidates is the target changes nothing about the
others. The best choice is the most likely candidate; no rule has a higher expected HitRatio@1.

Two things are left out: purchases before the shown history, and interactions that the k-core drops.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from msrrec.config.data import DemoWorld
from msrrec.embedded.world import (
    FOLLOWS_BRAND,
    FOLLOWS_FIRST,
    FOLLOWS_SECOND,
    Rules,
    make_catalogue,
    make_rules,
)
from msrrec.schema import Example, Item

FloatArray = NDArray[np.float64]

_RANDOM = 1.0 - FOLLOWS_FIRST - FOLLOWS_SECOND - FOLLOWS_BRAND
_SAME = 1e-9
"""Probabilities this close are equal, and share their hits."""


@dataclass(frozen=True)
class Ceiling:
    """What can be reached on some examples of a generated world, in [0, 1].

    Attributes:
        num_users: Number of examples.
        expected: The expected HitRatio@1 of the most likely candidate: no rule exceeds it.
        hit_ratio: The HitRatio@1 of that choice on the examples as they came out.
        category_expected: The expected HitRatio@1 of the candidate from the category that the
            history names most often.
        category_hit_ratio: The HitRatio@1 of that count.

    Equally good candidates share their hits.
    """

    world: DemoWorld
    num_users: int
    expected: float
    hit_ratio: float
    category_expected: float
    category_hit_ratio: float


def world_ceiling(kind: DemoWorld, seed: int, examples: Sequence[Example]) -> Ceiling | None:
    """The ceiling of ``make_world(…, seed, kind)`` on examples; None without examples."""
    tally = CeilingTally(kind, seed)
    tally.add(examples)
    return tally.result()


_Hits = tuple[float, float, float, float]
"""Expected and real hits of the best choice, and of the count of categories."""


class CeilingTally:
    """The ceiling of ``world_ceiling``, to which examples are added in partitions."""

    def __init__(self, kind: DemoWorld, seed: int) -> None:
        self._kind, self._seed, self._rows = kind, seed, list[_Hits]()

    def add(self, examples: Sequence[Example]) -> None:
        """Measure examples."""
        self._rows += _measure_all(self._kind, self._seed, tuple(examples))

    def result(self) -> Ceiling | None:
        """The ceiling on all examples that were added; None without any."""
        if not self._rows:
            return None
        means = (float(value) for value in np.array(self._rows).mean(axis=0))
        return Ceiling(self._kind, len(self._rows), *means)


@lru_cache(8)  # all systems of a comparison are measured on the same examples
def _measure_all(kind: DemoWorld, seed: int, examples: tuple[Example, ...]) -> list[_Hits]:
    items = make_catalogue(seed)
    found = Beliefs(make_rules(items, kind, seed))
    catalogue = {item.item_id: item for item in items}
    return [_measure(found.probabilities(e), e, catalogue) for e in examples]


def _measure(chances: FloatArray, example: Example, catalogue: Mapping[str, Item]) -> _Hits:
    is_target = np.array([item == example.target for item in example.candidates], dtype=float)
    counts = Counter(catalogue[item].categories[0] for item in example.history)
    named = [counts[catalogue[item].categories[0]] for item in example.candidates]
    best = chances >= chances.max() - _SAME
    most = np.array(named) == max(named)
    return (
        float(chances[best].mean()),
        float(is_target[best].mean()),
        float(chances[most].mean()),
        float(is_target[most].mean()),
    )


@dataclass(frozen=True)
class _Left:
    """Numbers of items that the user has not bought: by group, shape (G,), and maker, (M,)."""

    groups: NDArray[np.int64]
    makers: NDArray[np.int64]

    def take(self, group: int, maker: int) -> None:
        """Count one item of a group and a maker as bought."""
        self.groups[group] -= 1
        self.makers[maker] -= 1


class Beliefs:
    """What a history tells about the shopper, by the probabilities of a world.

    A belief has shape (G, G, M): the probability of first group, second group and maker.
    """

    def __init__(self, rules: Rules) -> None:
        """Number the groups and makers, and count the items of each."""
        makers = sorted({trait.maker for trait in rules.traits.values()})
        group_of = {group: n for n, group in enumerate(rules.groups)}
        maker_of = {maker: n for n, maker in enumerate(makers)}
        self._traits = {
            item: (group_of[trait.group], maker_of[trait.maker])
            for item, trait in rules.traits.items()
        }
        self._successors = {
            group_of[group]: (group_of[first], group_of[second])
            for group, (first, second) in rules.successors.items()
        }
        groups, of_maker = zip(*self._traits.values(), strict=True)
        self._group_sizes = np.bincount(groups, minlength=len(group_of))
        self._maker_sizes = np.bincount(of_maker, minlength=len(makers))
        pairs = 1.0 - np.eye(len(group_of))  # the two groups of a shopper differ
        self._prior = (pairs / pairs.sum())[:, :, None] * (self._maker_sizes / len(groups))

    def probabilities(self, example: Example) -> FloatArray:
        """Shape (C,). The probability that each candidate came next, given that one of them did."""
        belief, left = self._prior, _Left(self._group_sizes.copy(), self._maker_sizes.copy())
        bought: set[str] = set()
        for item in example.history:
            first, second, maker = self._rates(item, left, is_new=item not in bought)
            belief = belief * (first[:, None, None] + (second[:, None] + maker))
            belief /= belief.sum()
            if item not in bought:
                left.take(*self._traits[item])
                bought.add(item)
            belief = self._move(belief, item)
        marginals = (belief.sum((1, 2)), belief.sum((0, 2)), belief.sum((0, 1)))
        rates = [self._rates(c, left, is_new=c not in bought) for c in example.candidates]
        chances = np.array(
            [sum(m @ rate for m, rate in zip(marginals, parts, strict=True)) for parts in rates]
        )
        return np.asarray(chances / chances.sum())

    def _rates(
        self, item: str, left: "_Left", *, is_new: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The item's probability by what a purchase follows, the random share in the last part.

        Shapes (G,), (G,) and (M,), to be added for a shopper's groups and maker.
        """
        group, maker = self._traits[item]
        num_items, num_left = len(self._traits), int(left.groups.sum())
        # a shopper whose pool is empty takes any item, bought ones included
        by_group = np.where(left.groups == 0, 1.0 / num_items, 0.0)
        by_maker = np.where(left.makers == 0, 1.0 / num_items, 0.0)
        if is_new:
            by_group[group], by_maker[maker] = 1.0 / left.groups[group], 1.0 / left.makers[maker]
        anything = float(is_new) / num_left if num_left else 1.0 / num_items
        by_maker = FOLLOWS_BRAND * by_maker + _RANDOM * anything
        return FOLLOWS_FIRST * by_group, FOLLOWS_SECOND * by_group, by_maker

    def _move(self, belief: FloatArray, item: str) -> FloatArray:
        """The belief about the next purchase: where groups change, they are known after one."""
        if not self._successors:
            return belief
        moved = np.zeros_like(belief)
        first, second = self._successors[self._traits[item][0]]
        moved[first, second] = belief.sum((0, 1))
        return moved
