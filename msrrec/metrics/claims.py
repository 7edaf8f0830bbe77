"""Steps of a chain that can be checked: what candidates are, and what the user wants.

Read are the forms of the offline teacher's chains: lists such as ``From Tools: (2), (5)``, labels
such as ``(1) Baby; (2) Tools``, which titles may precede, ``(1) Red Lamp: Lamp; (2) Shoe: other``,
and wants such as ``The user mostly buys Tools, then Baby`` or ``After Tools, customers mostly buy
Baby``. A catalogue checks the first two, the history the third; the last needs the rules of the
world. Where the catalogue has no categories, lists and labels name words, and titles check them.
Prose that names either otherwise is left unread, and so is a name that is no category of the
catalogue, or no word of its titles. Labels are also held against what they should have named: a
chain that labels every candidate ``other`` is never wrong, and blind.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from msrrec.schema import Example, Item
from msrrec.titles import fold_text, is_content_word

_LIST = re.compile(r"From ([^:\n]{1,60}): (none|\(\d+\)(?:, \(\d+\))*)")
_MOSTLY = re.compile(r"The user mostly buys ([^,.\n]{1,60})(?:, then ([^,.\n]{1,60}))?\.")
_AFTER = re.compile(
    r"After ([^,\n]{1,60}), customers mostly buy ([^,.\n]{1,60})(?:, then ([^,.\n]{1,60}))?\."
)
_LABEL = re.compile(r"\((\d{1,9})\) ([^;.\n]{1,60})(?=[;.]|$)", re.MULTILINE)
_ENTRY = re.compile(r"\((\d{1,9})\) ((?:(?!; \(\d+\) ).)+)")
_WORD_OF_ENTRY = re.compile(r"(?:.*: )?([^;.]{1,60})(?=[;.]|$)")
_WORD = re.compile(r"[^\W\d_]+")

UNLABELLED = "other"
"""The label of what has no category, or no word in common with the history. It is no claim, but
misses what could have been named."""


@dataclass(frozen=True)
class Claims:
    """Whether each claim of one reasoning is true.

    Attributes:
        lists: Of every list, whether it names just the candidates of its category; of a word,
            whether all that it names have the word in their titles, or none has.
        labels: Of every label, whether it is its candidate's narrowest category; of a word, whether
            the candidate's title has it, and a title of the history.
        named: Of every candidate with a category, or with a word in common with the history that is
            no article or the like: whether a true label names it. Empty for a chain without any
            label that is read, be it ``other``.
        wants: Of every want, whether its first category is (one of) the commonest of the history,
            or whether its categories are what follows the last one's, in that order.
    """

    lists: tuple[bool, ...]
    labels: tuple[bool, ...]
    named: tuple[bool, ...]
    wants: tuple[bool, ...]


@dataclass(frozen=True)
class Truth:
    """What is known of categories, or else of words in titles; all folded.

    Attributes:
        categories: The narrowest category of every item that has one, by item id.
        names: All categories of the catalogue, or all words of its titles.
        followers: The categories that are wanted after each, most wanted first; empty unless the
            rules of a world say so.
        titled: The items, whose titles' words are read as they are needed: sets of words of a whole
            catalogue would take a gigabyte a million items. Empty where there are categories.
    """

    categories: Mapping[str, str]
    names: frozenset[str]
    followers: Mapping[str, tuple[str, ...]]
    titled: Mapping[str, Item]

    @classmethod
    def of(
        cls, items: Mapping[str, Item], followers: Mapping[str, Sequence[str]] | None = None
    ) -> "Truth":
        """What a catalogue and the rules of a world know."""
        found = {key: _fold(item.categories[-1]) for key, item in items.items() if item.categories}
        known = {_fold(key): tuple(map(_fold, names)) for key, names in (followers or {}).items()}
        titled = {} if found else items
        words = {word for item in titled.values() for word in _words(item.title)}
        return cls(found, frozenset({*found.values(), *words}) - {UNLABELLED}, known, titled)

    def words(self, item_id: str) -> frozenset[str]:
        """The words of an item's title; none of an item that is not in the catalogue."""
        item = self.titled.get(item_id)
        return _words(item.title) if item else frozenset()


def check_claims(reasoning: str, example: Example, truth: Truth) -> Claims:
    """The claims of a reasoning about its history and candidates.

    Args:
        reasoning: The text between the markers.
        example: What the reasoning is about.
        truth: What is known.
    """
    if truth.titled:
        return _check_words(reasoning, example, truth)
    shown = [truth.categories.get(item_id) for item_id in example.candidates]
    lists = tuple(_iter_lists(reasoning, shown, truth.names))
    wants = tuple(_iter_wants(reasoning, example.history, truth))
    read = list(_iter_labelled(reasoning, truth.names))
    real = [{category} - {None, UNLABELLED} for category in shown]
    return Claims(lists, *_judge_labels(read, real, real), wants)


def _check_words(reasoning: str, example: Example, truth: Truth) -> Claims:
    shown = [truth.words(item_id) for item_id in example.candidates]
    bought = frozenset().union(*map(truth.words, example.history))
    lists = []
    for word, named in _iter_named(reasoning, truth.names):
        having = {number for number, words in enumerate(shown, 1) if word in words}
        lists.append(named <= having if named else not having)
    read = list(_iter_entries(reasoning, truth.names))
    shared = [(words & bought) - {UNLABELLED} for words in shown]
    telling = [set(filter(is_content_word, words)) for words in shared]
    return Claims(tuple(lists), *_judge_labels(read, shared, telling), ())


def _judge_labels(
    read: Sequence[tuple[str, int]],
    right: Sequence[Set[str | None]],
    expected: Sequence[Set[str | None]],
) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Whether each label is true, and whether each candidate that should be named has a true one.

    Args:
        read: The name, which may be ``other``, and the 1-based number of every label.
        right: The names that are true of each candidate.
        expected: Those of which it should have one; none where it may stay without.
    """
    labels = [(name, n) for name, n in read if name != UNLABELLED]
    true = [1 <= n <= len(right) and name in right[n - 1] for name, n in labels]
    named = {n for (_, n), is_true in zip(labels, true, strict=True) if is_true}
    found = (n in named for n, names in enumerate(expected, 1) if names)
    return tuple(true), tuple(found) if read else ()


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
    for category, named in _iter_named(reasoning, known):
        yield named == {n for n, other in enumerate(truth, 1) if other == category}


def _iter_named(reasoning: str, known: frozenset[str]) -> Iterator[tuple[str, set[int]]]:
    """The name and the numbers of every list of something known."""
    for found in _LIST.finditer(reasoning):
        if (name := _fold(found[1])) in known:
            yield name, {int(number) for number in re.findall(r"\d+", found[2])}


def _iter_labelled(reasoning: str, known: frozenset[str]) -> Iterator[tuple[str, int]]:
    """The name and the number of every label that is something known, or ``other``."""
    for found in _LABEL.finditer(reasoning):
        if (name := _fold(found[2])) in known or name == UNLABELLED:
            yield name, int(found[1])


def _iter_entries(reasoning: str, known: frozenset[str]) -> Iterator[tuple[str, int]]:
    """The known word, or ``other``, and the number of every entry of a list, titles before or not.

    A line with a single entry is left unread, as it may recommend a title that is one word.
    """
    for line in reasoning.split("\n"):
        entries = list(_ENTRY.finditer(line))
        for entry in entries if len(entries) > 1 else []:
            found = _WORD_OF_ENTRY.match(entry[2])
            name = _fold(found[1]) if found else ""
            if name in known or name == UNLABELLED:
                yield name, int(entry[1])


def _words(title: str) -> frozenset[str]:
    return frozenset(_WORD.findall(_fold(title)))


def _fold(text: str) -> str:
    return fold_text(text).strip()
