"""Steps of a chain that can be checked: categories of candidates, and what the user wants.

Read are the forms of the chains of generated worlds: lists such as ``From Tools: (2), (5)``, labels
such as ``(1) Baby; (2) Tools``, and wants such as ``The user mostly buys Tools, then Baby`` or
``After Tools, customers mostly buy Baby``. A catalogue checks the first two, the history the third;
the last needs the rules of the world. Prose that names categories otherwise is left unread, and so
is a name that is no category of the catalogue.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msrrec.schema import Example, Item
from msrrec.titles import fold_text

_LIST = re.compile(r"From ([^:\n]{1,60}): (none|\(\d+\)(?:, \(\d+\))*)")
_MOSTLY = re.compile(r"The user mostly buys ([^,.\n]{1,60})(?:, then ([^,.\n]{1,60}))?\.")
_AFTER = re.compile(
    r"After ([^,\n]{1,60}), customers mostly buy ([^,.\n]{1,60})(?:, then ([^,.\n]{1,60}))?\."
)
_LABEL = re.compile(r"\((\d+)\) ([^;.\n]{1,60})(?=[;.]|$)", re.MULTILINE)


@dataclass(frozen=True)
class Claims:
    """Whether each claim of one reasoning is true.

    Attributes:
        lists: Of every list, whether it names just the candidates of its category.
        labels: Of every label, whether it is its candidate's narrowest category.
        wants: Of every want, whether its first category is (one of) the commonest of the history,
            or whether its categories are what follows the last one's, in that order.
    """

    lists: tuple[bool, ...]
    labels: tuple[bool, ...]
    wants: tuple[bool, ...]


@dataclass(frozen=True)
class Truth:
    """What is known of categories, folded.

    Attributes:
        categories: The narrowest category of every item that has one, by item id.
        names: All categories of the catalogue.
        followers: The categories that are wanted after each, most wanted first; empty unless the
            rules of a world say so.
    """

    categories: Mapping[str, str]
    names: frozenset[str]
    followers: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls, items: Mapping[str, Item], followers: Mapping[str, Sequence[str]] | None = None
    ) -> "Truth":
        """What a catalogue and the rules of a world know."""
        found = {key: _fold(item.categories[-1]) for key, item in items.items() if item.categories}
        known = {_fold(key): tuple(map(_fold, names)) for key, names in (followers or {}).items()}
        return cls(found, frozenset(found.values()), known)


def check_claims(reasoning: str, example: Example, truth: Truth) -> Claims:
    """The claims of a reasoning about its history and candidates.

    Args:
        reasoning: The text between the markers.
        example: What the reasoning is about.
        truth: What is known.
    """
    shown = [truth.categories.get(item_id) for item_id in example.candidates]
    return Claims(
        tuple(_iter_lists(reasoning, shown, truth.names)),
        tuple(_iter_labels(reasoning, shown, truth.names)),
        tuple(_iter_wants(reasoning, example.history, truth)),
    )


def _iter_wants(reasoning: str, history: Sequence[str], truth: Truth) -> Iterator[bool]:
    counts = Counter(truth.categories[item] for item in history if item in truth.categories)
    for found in _MOSTLY.finditer(reasoning):
        first = _fold(found[1])
        if first in truth.names and counts:
            yield counts[first] == max(counts.values())
    for found in _AFTER.finditer(reasoning):
        last, *named = (_fold(name) for name in found.groups() if name)
        if last in truth.followers:
            yield tuple(named) == truth.followers[last][: len(named)]


def _iter_lists(
    reasoning: str, truth: Sequence[str | None], known: frozenset[str]
) -> Iterator[bool]:
    for found in _LIST.finditer(reasoning):
        category = _fold(found[1])
        if category in known:
            named = {int(number) for number in re.findall(r"\d+", found[2])}
            yield named == {n for n, other in enumerate(truth, 1) if other == category}


def _iter_labels(
    reasoning: str, truth: Sequence[str | None], known: frozenset[str]
) -> Iterator[bool]:
    for found in _LABEL.finditer(reasoning):
        category, number = _fold(found[2]), int(found[1])
        if category in known:
            yield 1 <= number <= len(truth) and truth[number - 1] == category


def _fold(text: str) -> str:
    return fold_text(text).strip()
