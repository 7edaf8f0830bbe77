"""Changes made to a reasoning to see whether the answer depends on it (Lanham et al., 2307.13702).

All are pure functions of texts. A step's place is looked up in the text as the model wrote it, so
what is left unchanged is left as it was.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.reasoning.parsing import Chain, parse_chain
from msrrec.reasoning.prompts import STEPS, Side, sanitize_step
from msrrec.reasoning.thinking import split_thinking
from msrrec.titles import clean_title, find_titles

PARAPHRASER = "stand-in: fixed substitutions of words, titles and headings kept"
"""What makes the paraphrases; no model is involved."""

ParaphraseFlaw = Literal["unanswered", "steps", "titles", "unchanged"]
"""Why a written paraphrase can't be used: there is none or it is cut short; its headings are others
or a step is no paragraph; it names other titles or numbers of the list; it is the same text."""

_HEADING = r"Step \d+\. [^:\n]{1,40}:"
_SUBSTITUTES = {
    "the user": "this customer",
    "user": "customer",
    "mostly buys": "chiefly purchases",
    "buys": "purchases",
    "bought": "purchased",
    "likes": "is fond of",
    "prefers": "leans towards",
    "favourite": "preferred",
    "favorite": "preferred",
    "then": "after that",
    "from": "out of",
    "none": "nothing",
    "fits best": "suits most",
    "best fit": "closest match",
    "fits": "suits",
    "it matches": "this goes with",
    "matches": "goes with",
    "match": "go with",
    "it is made by": "its maker is",
    "shares the word": "has in common the word",
    "history": "past purchases",
    "because": "as",
    "since": "given that",
    "therefore": "hence",
    "so": "thus",
    "best": "most suitable",
    "choose": "pick",
    "recommend": "suggest",
    "recommended": "suggested",
    "similar": "alike",
    "interest": "liking",
    "interested in": "drawn to",
    "candidate": "option",
    "candidates": "options",
    "also": "as well",
    "suggests": "hints at",
    "indicates": "points to",
    "previous": "earlier",
    "often": "frequently",
}


@dataclass(frozen=True)
class Span:
    """Where a step's text begins and ends within a reasoning, without its heading."""

    begin: int
    end: int


def find_steps(reasoning: str, side: Side) -> list[Span] | None:
    """The place of every step of a whole chain; None where the chain is not whole."""
    chain = parse_chain(reasoning, side)
    if not isinstance(chain, Chain) or len(chain.steps) != len(STEPS[side]):
        return None
    spans, place = [], 0
    for step in chain.steps:
        begin = reasoning.find(step, place)
        if not step or begin < 0:  # parsed steps are cleaned, so it may not stand in the text
            return None
        place = begin + len(step)
        spans.append(Span(begin, place))
    return spans


def matching_step(side: Side) -> int:
    """0-based number of the step that matches the user with the candidates: the third of five."""
    return 2 if side == "full" else 1


def name_other(step: str, chosen: int, other: int, candidates: Sequence[str]) -> str:
    """A step in which one candidate stands in another's place, by list number and by title.

    Args:
        step: The step's text.
        chosen: 0-based candidate that the model chose.
        other: The candidate that is put in its place, and it in the other's.
        candidates: Titles as shown.

    Returns:
        The step with both swapped. Where it names neither, a sentence for the other is added.
    """
    names = {chosen: other, other: chosen}
    forms = {f"({n + 1})": f"({m + 1})" for n, m in names.items()}
    forms |= {clean_title(candidates[n]): clean_title(candidates[m]) for n, m in names.items()}
    changed = _replace(step, forms)
    if changed == step:
        return f"{step} ({other + 1}) {clean_title(candidates[other])} matches best."
    return changed


def paraphrase(reasoning: str, titles: Sequence[str]) -> str:
    """The same reasoning with fixed other words; titles and headings of steps stay.

    A stand-in for a model that paraphrases, see ``PARAPHRASER``.
    """
    kept = [re.escape(clean_title(title)) for title in sorted(titles, key=len, reverse=True)]
    words = sorted(map(re.escape, _SUBSTITUTES), key=len, reverse=True)
    pattern = re.compile(
        rf"(?P<kept>{'|'.join([_HEADING, *kept])})|\b(?P<word>{'|'.join(words)})\b", re.IGNORECASE
    )
    return pattern.sub(_substitute, reasoning)


@dataclass(frozen=True)
class WrittenParaphrase:
    """A model's paraphrase: its text, or why it can't be used."""

    text: str | None = None
    flaw: ParaphraseFlaw | None = None


def read_paraphrase(written: str, reasoning: str, titles: Sequence[str]) -> WrittenParaphrase:
    """A model's paraphrase of whole steps, if it keeps their headings, titles and list numbers.

    Args:
        written: The completion; thoughts in it, and what stands before the first heading, are left
            out.
        reasoning: The steps that were to be put in other words, one line each.
        titles: Titles of the history and the candidates.
    """
    headings, before = _split_headings(reasoning)
    found, after = _split_headings(split_thinking(written).speech.replace("```", ""))
    if not headings or found != headings or not all(map(_is_paragraph, after)):
        return WrittenParaphrase(flaw="steps")
    steps = [sanitize_step(step) for step in after]
    if _named(" ".join(before), titles) != _named(" ".join(steps), titles):
        return WrittenParaphrase(flaw="titles")
    if [" ".join(step.split()).casefold() for step in before] == list(map(str.casefold, steps)):
        return WrittenParaphrase(flaw="unchanged")
    pairs = zip(headings, steps, strict=True)
    return WrittenParaphrase("".join(f"{heading} {step}\n" for heading, step in pairs))


def _split_headings(text: str) -> tuple[list[str], list[str]]:
    """The headings that begin a line, and what stands after each."""
    parts = re.split(rf"^[ \t]*({_HEADING})", text, flags=re.MULTILINE)[1:]
    return parts[::2], [part.strip() for part in parts[1::2]]


def _is_paragraph(step: str) -> bool:
    return bool(step) and not re.search(r"\n\s*\n", step)


def _named(text: str, titles: Sequence[str]) -> tuple[list[int], set[str]]:
    """The titles and the numbers in brackets that a text names."""
    shown = list(dict.fromkeys(map(clean_title, titles)))
    return find_titles(text, shown), set(re.findall(r"\((\d{1,3})\)", text))


def _substitute(found: re.Match[str]) -> str:
    word = found["word"]
    if word is None:
        return found[0]
    other = _SUBSTITUTES[word.lower()]
    return other[0].upper() + other[1:] if word[0].isupper() else other


def _replace(text: str, forms: dict[str, str]) -> str:
    """All replacements at once, so that none undoes another."""
    longest = sorted((form for form in forms if form), key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest)), lambda found: forms[found[0]], text)
