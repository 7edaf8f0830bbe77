"""Texts whose worth is known, beside which a similarity to references can be read.

Metrics such as METEOR reward form: chains of one template look alike whatever they say. What
another user's reference, shuffled words and correct texts in other words get tells how much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from msrrec.metrics.scores import Pair
from msrrec.reasoning.edits import paraphrase
from msrrec.titles import clean_title

TextAnchor = Literal["another user's", "shuffled words", "reworded", "restated"]
"""A text in the place of a reasoning: another user's reference (wrong, right form); the reference's
words in random order (says nothing); the reference with fixed other words (right, same form); the
right item and a reason for it in free words (right, other form)."""

MAX_ANCHORED = 100
"""References that anchors are made for, the first ones, as more would not change their means."""


@dataclass(frozen=True)
class Reference:
    """The reference of one user, and what it is about.

    Attributes:
        text: The teacher's correct path.
        history: Titles of the purchases, oldest first.
        target: Title of the item that it recommends.
        category: What target and history have in common; None for nothing known.
    """

    text: str
    history: Sequence[str]
    target: str
    category: str | None = None


def text_anchors(references: Sequence[Reference]) -> dict[TextAnchor, list[Pair]]:
    """Pairs of an anchor and its reference, for the first ``MAX_ANCHORED`` references.

    There is no other user where there is a single reference.
    """
    first = references[:MAX_ANCHORED]
    others = [*first[1:], *first[:1]] if len(first) > 1 else []
    return {
        "another user's": [(a.text, b.text) for a, b in zip(others, first, strict=False)],
        "shuffled words": [(shuffle_words(one.text), one.text) for one in first],
        "reworded": [(paraphrase(one.text, (*one.history, one.target)), one.text) for one in first],
        "restated": [(restate(one), one.text) for one in first],
    }


def shuffle_words(text: str) -> str:
    """The words of a text in an order that depends on the text alone."""
    words = text.split()
    Random(text).shuffle(words)
    return " ".join(words)


def restate(reference: Reference) -> str:
    """The right item and a reason for it, in free words and without steps."""
    owned = " and ".join(clean_title(title) for title in reference.history[-2:])
    target = clean_title(reference.target)
    if reference.category:
        return (
            f"Looking back at {owned}, this shopper clearly has {reference.category} in mind. Of "
            f"everything on offer, {target} belongs there, so it is the obvious thing to get next."
        )
    return (
        f"Whoever owns {owned} has a use for {target}: of everything on offer it belongs with them "
        "most, so it is what comes next."
    )
