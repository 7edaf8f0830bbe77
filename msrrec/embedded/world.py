"""The embedded world: a small marketplace in which purchases follow noisy preferences.

Each user prefers one category, less strongly a second one, and a brand. Preferences can be
recovered from the history, but no rule predicts every purchase: about a sixth of them is random.
"""

import random
from collections import Counter

import pyarrow as pa

from msrrec import schema
from msrrec.embedded.lexicon import CATEGORIES, make_brand, make_title

DOMAIN = "Marketplace"
NUM_BRANDS = 24
ITEMS_PER_CATEGORY = 32
FOLLOWS_FIRST, FOLLOWS_SECOND, FOLLOWS_BRAND = 0.55, 0.2, 0.1
"""Shares of purchases by what they follow; the rest is random."""
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


class Shopper:
    """A user with preferences who makes purchases."""

    def __init__(self, items: list[schema.Item], rng: random.Random) -> None:
        self.rng = rng
        self.items = items
        self.first, self.second = rng.sample(sorted(CATEGORIES), 2)
        self.brand = rng.choice([item.brand for item in items])
        self.bought: set[str] = set()

    def buy(self) -> schema.Item:
        """The next purchase, never the same item twice."""
        pool = [item for item in self._wanted() if item.item_id not in self.bought]
        item = self.rng.choice(pool or self.items)
        self.bought.add(item.item_id)
        return item

    def _wanted(self) -> list[schema.Item]:
        draw = self.rng.random()
        if draw < FOLLOWS_FIRST:
            return [item for item in self.items if item.categories[0] == self.first]
        if draw < FOLLOWS_FIRST + FOLLOWS_SECOND:
            return [item for item in self.items if item.categories[0] == self.second]
        if draw < FOLLOWS_FIRST + FOLLOWS_SECOND + FOLLOWS_BRAND:
            return [item for item in self.items if item.brand == self.brand]
        return self.items


def make_world(num_users: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Interactions (user_id, item_id, timestamp in Unix seconds) and items (``schema.ITEMS``)."""
    items = make_catalogue(seed)
    rng = random.Random(seed + 1)
    rows: list[tuple[str, str, int]] = []
    for user in range(num_users):
        shopper = Shopper(items, rng)
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
