"""What a chain is replaced by in the arms that tell whether it is the reasoning that helps.

Every arm trains on the same purchases in the same prompts and order; only the text between the
markers differs. The placebo is a chain of somebody else, filler says nothing in as many tokens, and
facts are asked apart from the purchase.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, cycle, islice
from typing import Any

from msrrec.errors import DataError
from msrrec.reasoning.encoding import encode_text
from msrrec.schema import Example, Item
from msrrec.titles import clean_title

FILLER = " ."
"""What the filler repeats."""


def derange(examples: Sequence[Example], seed: int) -> dict[str, str]:
    """Another user's example for each example, every one taken once; by example id.

    Users are shuffled, their examples put in a row, and the row is turned by the most examples that
    one user has, so nobody gets an example of their own.

    Args:
        examples: The examples with a chain.
        seed: Decides the order of the users.

    Raises:
        DataError: If one user has more than half of the examples.
    """
    of_user: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        of_user[example.user_id].append(example.example_id)
    users = sorted(of_user)
    random.Random(seed).shuffle(users)
    row = [example_id for user in users for example_id in of_user[user]]
    turn = max(map(len, of_user.values()), default=0)
    if 2 * turn > len(row):
        raise DataError(
            f"train.arm=placebo: one user has {turn} of the {len(row)} paths; expected at most "
            "half of them, so that everybody can have another user's; synthesize more paths"
        )
    return dict(zip(row, row[turn:] + row[:turn], strict=True))


def encode_filler(tokenizer: Any, count: int) -> list[int]:
    """A number of token ids that say nothing."""
    return list(islice(cycle(encode_text(tokenizer, FILLER)), count))


def encode_facts(
    tokenizer: Any, history: Sequence[Item], candidates: Sequence[Item], count: int
) -> list[int]:
    """The categories of all purchases and candidates in the order of the lists, over and over.

    Args:
        tokenizer: The base model's.
        history: The items that the prompt shows, oldest first.
        candidates: Likewise.
        count: Number of token ids, at which the text is cut.

    Raises:
        DataError: If no item has a category.
    """
    if not any(item.categories for item in (*history, *candidates)):
        raise DataError(
            f"train.arm=facts: {candidates[0].title!r} and the other items of its example have no "
            "categories; expected a dataset with categories"
        )
    marks = chain(("-" for _ in history), (f"({n})" for n in range(1, len(candidates) + 1)))
    lines = [
        f"{mark} {_category(item)}\n"
        for mark, item in zip(marks, (*history, *candidates), strict=True)
    ]
    return list(islice(cycle(encode_text(tokenizer, "".join(lines))), count))


def swap_paths(
    paths: Mapping[str, Sequence[str]], examples: Sequence[Example], seed: int
) -> dict[str, tuple[str, ...]]:
    """The paths of other users' examples, by the example that they are given to."""
    swapped = derange([example for example in examples if example.example_id in paths], seed)
    return {mine: tuple(paths[other]) for mine, other in swapped.items()}


def _category(item: Item) -> str:
    """The narrowest category."""
    return clean_title(item.categories[-1]) if item.categories else "none"
