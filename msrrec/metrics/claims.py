"""Steps of a chain that a catalogue can check: which candidates are of which category.

Two forms are read, those of the chains of generated worlds: lists such as ``From Tools: (2), (5)``
and labels such as ``(1) Baby; (2) Tools``. Prose that names categories otherwise is left unread,
and so is a name that is no category of the catalogue.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msrrec.schema import Item
from msrrec.titles import fold_text

_LIST = re.compile(r"From ([^:\n]{1,60}): (none|\(\d+\)(?:, \(\d+\))*)")
_LABEL = re.compile(r"\((\d+)\) ([^;.\n]{1,60})(?=[;.]|$)", re.MULTILINE)


@dataclass(frozen=True)
class Claims:
    """Whether each claim of one reasoning is true.

    Attributes:
        lists: Of every list, whether it names just the candidates of its category.
        labels: Of every label, whether it is its candidate's narrowest category.
    """

    lists: tuple[bool, ...]
    labels: tuple[bool, ...]


def narrowest_categories(items: Mapping[str, Item]) -> dict[str, str]:
    """The folded narrowest category of every item that has one, by item id."""
    return {key: _fold(item.categories[-1]) for key, item in items.items() if item.categories}


def check_claims(
    reasoning: str, candidates: Sequence[str], categories: Mapping[str, str], known: set[str]
) -> Claims:
    """The claims of a reasoning about its candidates.

    Args:
        reasoning: The text between the markers.
        candidates: Item ids in the frozen order.
        categories: See ``narrowest_categories``.
        known: All categories of the catalogue, folded.
    """
    truth = [categories.get(item_id) for item_id in candidates]
    return Claims(
        tuple(_iter_lists(reasoning, truth, known)), tuple(_iter_labels(reasoning, truth, known))
    )


def _iter_lists(reasoning: str, truth: Sequence[str | None], known: set[str]) -> Iterator[bool]:
    for found in _LIST.finditer(reasoning):
        category = _fold(found[1])
        if category in known:
            named = {int(number) for number in re.findall(r"\d+", found[2])}
            yield named == {n for n, other in enumerate(truth, 1) if other == category}


def _iter_labels(reasoning: str, truth: Sequence[str | None], known: set[str]) -> Iterator[bool]:
    for found in _LABEL.finditer(reasoning):
        category, number = _fold(found[2]), int(found[1])
        if category in known:
            yield 1 <= number <= len(truth) and truth[number - 1] == category


def _fold(text: str) -> str:
    return fold_text(text).strip()
