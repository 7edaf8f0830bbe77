"""Detects knowledge that a prompt or path must not have: later purchases and the answer.

The teacher is never told the answer. A path that claims to know it made that up, and would teach
the student to rely on information that it will not get.
"""

import re
from collections.abc import Iterable, Sequence

from msrrec import storage
from msrrec.data.dataset import Dataset
from msrrec.data.leave_one_out import HELD_OUT
from msrrec.titles import find_titles, fold_text, normalize_title, replace_mentions

_TOLD = re.compile(
    r"\b(?:correct|right|true|actual|real|hidden|expected|gold(?:en)?) "
    r"(?:answer|label|target|purchase|next (?:purchase|item))\b"
    r"|\b(?:given|provided|known) (?:answer|label|target)\b"
    r"|\bground[- ]truth\b|\banswer key\b|\btarget item\b"
    r"|\banswer (?:is|was) (?:known|given|provided)\b"
    r"|\b(?:i|we) (?:was|were|am|are|have been) (?:told|given|informed)\b"
    r"|\b(?:i|we) (?:already )?know (?:that )?(?:the user|they|he|she) (?:\w+ )?"
    r"(?:bought|purchased|chose|selected|picked)\b"
    r"|\buser (?:actually|eventually|ultimately|in fact|indeed|later|subsequently|finally|did|"
    r"went on to) (?:bought|buy|purchased?|chose|choose|selected?|picked?)\b"
)
_THING = r"(?:item|product|candidate|album|music|book|movie|film|one)\b"
_RATED = re.compile(
    r"\buser(?: has| had| may have)?(?: (?!not |never )\w+)? (?:"
    rf"(?:rated|reviewed) (?:it\b|(?:the|this) (?:\w+ ){{0,2}}{_THING})|"
    r"(?:bought|purchased|owned|ordered) (?:the|this) (?:recommended|target|chosen|selected|new|"
    rf"final) (?:\w+ ){{0,2}}{_THING})"
)
"""Prompts show no ratings, so whoever knows one speaks of the candidate as already had."""
_TARGET = "\1"
"""Placeholder for the target's title and its list number while a path is read."""
_AS_BOUGHT = re.compile(
    r"(?:\b(?:bought|purchased|ordered|owns|owned|acquired|already has)"
    r"|\buser (?:has |had )?(?:already )?(?:chosen|chose|selected|rated|reviewed)) "
    rf"(?:(?:the|a|an|item|candidate|product|this|their) ){{0,3}}\W{{0,4}}{_TARGET}"
    rf"|{_TARGET}\W{{0,4}}(?:(?:was|has been|had been) (?:\w+ )?(?:bought|purchased|chosen) by the "
    r"user|(?:that|which) (?:the user|they) (?:\w+ )?(?:bought|purchased|owns?)\b)"
)


def later_items(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The ids of each user's validation and test items, by user id; a missing split has none."""
    later: dict[str, tuple[str, ...]] = {}
    for split in HELD_OUT:
        if storage.exists(storage.join(dataset.path, f"{split}.parquet")):
            for example in dataset.iter_examples(split):
                item_id = dataset.items[example.target].item_id  # one text for all users
                later[example.user_id] = (*later.get(example.user_id, ()), item_id)
    return later


def shows_later(shown: Iterable[str], later: Iterable[str]) -> bool:
    """Whether the titles of a prompt include a held-out title or one that equals it."""
    held_out = {normalize_title(title) for title in later}
    return any(normalize_title(title) in held_out for title in shown)


def find_leak(
    steps: Sequence[str],
    candidates: Sequence[str],
    target: int,
    history: Sequence[str] = (),
    later: Sequence[str] = (),
) -> str | None:
    """What a path claims to know but can't, or None.

    Args:
        steps: The steps of the path.
        candidates: Titles in the frozen order.
        target: 0-based index of the target.
        history: Titles that the prompt shows.
        later: Titles of the user's held-out items.
    """
    text = "\n".join(steps)
    shown = (*candidates, *history)
    if later and any(index >= len(shown) for index in find_titles(text, (*shown, *later))):
        return "names a held-out item"
    plain = fold_text(text)
    if _TOLD.search(plain):
        return "speaks of a known answer"
    if _RATED.search(plain) or _tells_target(plain, candidates[target], target + 1, history):
        return "tells the target as bought"
    return None


def _tells_target(plain: str, target: str, number: int, history: Sequence[str]) -> bool:
    """Whether folded text says that the user bought the target, and the history does not."""
    title = normalize_title(target)
    for form in sorted(map(normalize_title, history), key=len, reverse=True):
        if form == title:
            return False  # it was bought before, too, so a path may say so
        if title in form:
            plain, _ = replace_mentions(plain, form, "\0")
    plain, _ = replace_mentions(plain.replace(f"({number})", _TARGET), title, _TARGET)
    return bool(_AS_BOUGHT.search(plain))
