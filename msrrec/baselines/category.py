"""Same category: prefers candidates from the categories in which the user shops most."""

from collections.abc import Sequence

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.schema import Example


class SameCategory:
    """Scores are the shared parts of category paths, averaged over the history."""

    def __init__(self, config: RunConfig) -> None:
        del config
        self._paths: dict[str, tuple[str, ...]] = {}

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Read the catalogue's categories.

        Raises:
            DataError: If no item has one.
        """
        del folder
        self._paths = {item.item_id: item.categories for item in dataset.items.values()}
        known = sum(map(bool, self._paths.values()))
        if not known:
            raise DataError(
                f"{dataset.path}: no item has categories; expected some, so give items with "
                "categories to `msrrec prepare` or leave out the system `category`"
            )
        return {"items_with_categories": known}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """A mean in [0, 1] per candidate; 1 if the whole history has its narrowest category."""
        return [[self._score(e.history, item) for item in e.candidates] for e in examples]

    def _score(self, history: Sequence[str], candidate: str) -> float:
        path = self._paths[candidate]
        shared = [_shared(self._paths[item_id], path) for item_id in history]
        return sum(shared) / len(shared)


def _shared(first: Sequence[str], second: Sequence[str]) -> float:
    """Length of the common start of two category paths, as a share of the longer path."""
    longest = max(len(first), len(second))
    alike = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        alike += 1
    return alike / longest if longest else 0.0
