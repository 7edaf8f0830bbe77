"""The embedded world: what it promises, counted."""

from collections import Counter

from msrrec.embedded.lexicon import CATEGORIES
from msrrec.embedded.world import make_world
from msrrec.titles import normalize_title


def test_the_world_follows_its_seed() -> None:
    first, second, other = make_world(30, 0), make_world(30, 0), make_world(30, 1)
    assert first[0].equals(second[0])
    assert first[1].equals(second[1])
    assert not first[0].equals(other[0])


def test_no_product_type_belongs_to_two_categories() -> None:
    kinds = [kind for kinds in CATEGORIES.values() for kind in kinds]
    assert len(kinds) == len(set(kinds)) == 160


def test_titles_differ_and_name_their_brand() -> None:
    items = make_world(400, 0)[1].to_pylist()
    assert len({normalize_title(item["title"]) for item in items}) == len(items) > 600
    assert all(item["title"].startswith(item["brand"]) for item in items)


def test_most_purchases_follow_the_favourite_category_and_some_do_not() -> None:
    interactions, items = make_world(400, 0)
    category = {item["item_id"]: item["categories"][0] for item in items.to_pylist()}
    by_user: dict[str, Counter[str]] = {}
    for row in interactions.to_pylist():
        by_user.setdefault(row["user_id"], Counter())[category[row["item_id"]]] += 1
    top = sum(counts.most_common(1)[0][1] for counts in by_user.values())
    share = top / interactions.num_rows
    assert 0.5 < share < 0.7
