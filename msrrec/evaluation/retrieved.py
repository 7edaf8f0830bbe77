"""Examples whose candidates are retrieved from the whole catalogue.

What retrieval misses no system can choose, so an evaluation on such examples is one of the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from msrrec.config import EvaluateConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leave_one_out import places_from_end
from msrrec.data.partitions import Partitions
from msrrec.errors import DataError
from msrrec.retrieval.folder import load_index
from msrrec.retrieval.index import Index
from msrrec.schema import Example


def load_honest_index(dataset: Dataset, settings: EvaluateConfig) -> Index:
    """The index that retrieves candidates.

    Raises:
        DataError: If it was made from another dataset, or learned from held-out purchases.
    """
    where = settings.index or ""
    index = load_index(where)
    index.require_dataset(dataset.fingerprint, dataset.path)
    if index.settings.purchases != "training":
        raise DataError(
            f"{where}: learned from all purchases, the targets among them; expected one of the "
            "training purchases, so run `msrrec index` with retrieval.purchases=training"
        )
    return index


def retrieve_candidates(index: Index, dataset: Dataset, settings: EvaluateConfig) -> Partitions:
    """The examples of a split with the items that an index finds as candidates, the best first.

    All purchases before the target are the history of the search, also those that examples don't
    show. Items that the dataset lacks are not retrieved.
    """
    split, count = settings.split, settings.retrieved_count
    foreign = [item.item_id for item in index.catalogue.items if item.item_id not in dataset.items]
    frozen = dataset.partitions(split, settings.num_users)
    last = places_from_end(split)

    def read() -> Iterator[list[Example]]:
        bought = dataset.events()
        for part in frozen.read():
            histories = [bought[example.user_id][:-last] for example in part]
            found = index.rank(histories, count, excluded=[foreign] * len(part))
            items = index.catalogue.items
            lists = [[items[code].item_id for code in one.union.codes] for one in found]
            yield [_replace(e, ids) for e, ids in zip(part, lists, strict=True)]

    return Partitions(frozen.num_examples, read)


def _replace(example: Example, found: Sequence[str]) -> Example:
    if len(found) < 2:
        raise DataError(
            f"{example.example_id}: {len(found)} items of the catalogue are left to choose from; "
            "expected at least 2"
        )
    return replace(example, candidates=tuple(found))
