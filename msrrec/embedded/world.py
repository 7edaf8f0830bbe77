"""The embedded worlds: small marketplaces in which purchases follow known probabilities.

A shopper wants one group of items, less strongly a second one, and a maker; about a sixth of all
purchases is random. What groups and makers are, and whether they change, depends on the world:

- ``mixture``: a user's groups are two categories and the maker a brand, for good. The order of
  purchases carries nothing.
- ``transitions``: after each purchase the wanted groups are the two categories that follow the
  bought item's category, the same two for all users. The order of purchases matters.
- ``unnamed``: as ``mixture``, but each item's group and maker are the category and brand of another
  item, drawn at random. No title, category or brand names what purchases follow.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from msrrec import schema
from msrrec.config.data import DemoWorld
from msrrec.embedded.lexicon import CATEGORIES, make_brand, make_title

DOMAIN = "Marketplace"
NUM_BRANDS = 24
ITEMS_PER_CATEGORY = 32
FOLLOWS_FIRST, FOLLOWS_SECOND, FOLLOWS_BRAND = 0.55, 0.2, 0.1
"""Shares of purchases by what they follow: first group, second group, maker; the rest is random."""
MIN_EVENTS, MAX_EVENTS = 6, 12
DAY_S = 86_400


def make_catalogue(seed: int) -> list[schema.Item]:
    """Items with category and brand; titles name kind and brand, and all differ."""
    rng = random.Random(seed)
    brands = sorted({make_brand(rng) for _ in range(NUM_BRANDS)})
    items: list[schema.Item] = []
    titles: set[str] = set()
    for category, kinds in CATEGORIES.items():
        while sum(item.categories[0] == category for item in items) < ITEMS_PER_CATEGORY:
            brand = rng.choice(brands)
            title = make_title(rng, brand, rng.choice(kinds))
            if title not in titles:
                titles.add(title)
                items.append(schema.Item(f"i{len(items):04d}", title, (category,), brand))
    return items


@dataclass(frozen=True)
class Trait:
    """What a shopper sees in an item: a group and a maker."""

    group: str
    maker: str


@dataclass(frozen=True)
class Rules:
    """What decides the purchases of one world.

    Attributes:
        traits: The trait of every item, by item id, in the order of the catalogue.
        groups: All groups, sorted.
        successors: The first and second group that are wanted after a purchase from each group;
            empty if a user's groups never change.
    """

    traits: Mapping[str, Trait]
    groups: tuple[str, ...]
    successors: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def make_rules(items: Sequence[schema.Item], kind: DemoWorld, seed: int) -> Rules:
    """The rules of a world with these items; only ``kind`` and ``seed`` decide what is random."""
    traits = [Trait(item.categories[0], item.brand or "") for item in items]
    groups = tuple(sorted({trait.group for trait in traits}))
    rng = random.Random(f"{kind}:{seed}")
    successors: dict[str, tuple[str, str]] = {}
    if kind == "unnamed":
        rng.shuffle(traits)
    elif kind == "transitions":
        circle = rng.sample(groups, len(groups))
        following = circle[1:] + circle[:2]
        successors = {group: (following[n], following[n + 1]) for n, group in enumerate(circle)}
    ids = [item.item_id for item in items]
    return Rules(dict(zip(ids, traits, strict=True)), groups, successors)


class Shopper:
    """A user with preferences who makes purchases."""

    def __init__(self, items: list[schema.Item], rules: Rules, rng: random.Random) -> None:
        self.rng = rng
        self.items = items
        self.rules = rules
        self.first, self.second = rng.sample(rules.groups, 2)
        self.maker = rules.traits[rng.choice(items).item_id].maker
        self.bought: set[str] = set()

    def buy(self) -> schema.Item:
        """The next purchase, never the same item twice."""
        pool = [item for item in self._wanted() if item.item_id not in self.bought]
        item = self.rng.choice(pool or self.items)
        self.bought.add(item.item_id)
        if self.rules.successors:
            self.first, self.second = self.rules.successors[self.rules.traits[item.item_id].group]
        return item

    def _wanted(self) -> list[schema.Item]:
        draw, traits = self.rng.random(), self.rules.traits
        if draw < FOLLOWS_FIRST:
            return [item for item in self.items if traits[item.item_id].group == self.first]
        if draw < FOLLOWS_FIRST + FOLLOWS_SECOND:
            return [item for item in self.items if traits[item.item_id].group == self.second]
        if draw < FOLLOWS_FIRST + FOLLOWS_SECOND + FOLLOWS_BRAND:
            return [item for item in self.items if traits[item.item_id].maker == self.maker]
        return self.items


def make_world(num_users: int, seed: int, kind: DemoWorld = "mixture") -> tuple[pa.Table, pa.Table]:
    """Interactions (user_id, item_id, timestamp in Unix seconds) and items (``schema.ITEMS``)."""
    items = make_catalogue(seed)
    rules = make_rules(items, kind, seed)
    rng = random.Random(seed + 1)
    rows: list[tuple[str, str, int]] = []
    for user in range(num_users):
        shopper = Shopper(items, rules, rng)
        day = rng.randint(19_000, 19_300)
        for _ in range(rng.randint(MIN_EVENTS, MAX_EVENTS)):
            day += rng.randint(1, 20)
            rows.append((f"u{user:05d}", shopper.buy().item_id, day * DAY_S))
    users, item_ids, times = zip(*rows, strict=True)
    interactions = pa.table(
        {schema.USER_ID: users, schema.ITEM_ID: item_ids, schema.TIMESTAMP: times}
    )
    bought = Counter(item_ids)
    sold = [item for item in items if bought[item.item_id]]
    catalogue = pa.table(
        {
            schema.ITEM_ID: [item.item_id for item in sold],
            schema.TITLE: [item.title for item in sold],
            schema.CATEGORIES: [list(item.categories) for item in sold],
            schema.BRAND: [item.brand for item in sold],
            schema.DESCRIPTION: pa.nulls(len(sold), pa.string()),
        },
        schema=schema.ITEMS,
    )
    return interactions, catalogue
