"""Purchases that a customer might have made, of popular items, for those who try a model out.

They are nobody's: what shows them to everybody must not show what a customer bought.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from msrrec.data.dataset import Dataset
from msrrec.models import TypicalCustomer
from msrrec.schema import Item
from msrrec.titles import clean_title, normalize_title

NUM_CUSTOMERS = 3
_NUM_BOUGHT, _NUM_OTHERS = 3, 5
_MAX_EXAMPLES = 20_000
"""Training examples that popularity is counted in."""
_MAX_CHARS = 120


def typical_customers(dataset: Dataset) -> list[TypicalCustomer]:
    """A few customers for a dataset, see ``imagine_customers``."""
    bought = Counter[str]()
    for part in dataset.partitions("train", _MAX_EXAMPLES).read():
        for example in part:
            bought.update((*example.history, example.target))
    return imagine_customers(dataset.items.values(), bought)


def imagine_customers(items: Iterable[Item], bought: Mapping[str, int]) -> list[TypicalCustomer]:
    """Customers who each keep to one of the most popular categories.

    Each has bought its three most popular items, and could go on with the fourth, or with the most
    popular items of other categories.

    Args:
        items: The catalogue.
        bought: How often each item was bought, by id.

    Returns:
        One customer for each of the three categories that were bought most, as far as there are
        categories of four items with titles of their own.
    """
    ranked = sorted(items, key=lambda item: (-bought.get(item.item_id, 0), item.item_id))
    shelves: dict[str, list[str]] = defaultdict(list)
    sold, seen = Counter[str](), set[str]()
    for item in ranked:
        title = clean_title(item.title, _MAX_CHARS)
        if item.categories and title and normalize_title(title) not in seen:
            seen.add(normalize_title(title))
            shelves[item.categories[-1]].append(title)
            sold[item.categories[-1]] += bought.get(item.item_id, 0)
    full = [name for name, _ in sold.most_common() if len(shelves[name]) > _NUM_BOUGHT]
    return [_imagine(n, name, shelves, sold) for n, name in enumerate(full[:NUM_CUSTOMERS])]


def _imagine(
    number: int, category: str, shelves: Mapping[str, list[str]], sold: Counter[str]
) -> TypicalCustomer:
    *others, right = shelves[category][: _NUM_BOUGHT + 1]
    rest = [shelves[name][0] for name, _ in sold.most_common() if name != category]
    candidates = rest[:_NUM_OTHERS]
    candidates.insert(min(2 * number + 1, len(candidates)), right)
    return {"history": others[::-1], "candidates": candidates}
