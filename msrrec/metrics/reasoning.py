"""What a reasoning is worth by itself: complete, grounded, free of contradiction, not formulaic.

Nothing here needs a reference or a model; ``text`` and ``judge`` have the metrics that do.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from msrrec.metrics.statistics import Share, mean_interval, wilson
from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import Chain, parse_chain
from msrrec.reasoning.prompts import STEPS, Side
from msrrec.schema import Example, Item
from msrrec.titles import find_titles, normalize_title

_QUOTED = re.compile(r'"([^"\n]{3,200})"|“([^”\n]{3,200})”|\*\*([^*\n]{3,200})\*\*')
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_HEADINGS = {normalize_title(name) for names in STEPS.values() for name in names}


class Reasoned(Protocol):
    """What is read of an output: its side, its reasoning and the 0-based candidate it answers."""

    @property
    def side(self) -> str:
        """Who wrote it; outputs of others than the sides with a chain are left out."""
        ...

    @property
    def reasoning(self) -> str:
        """The text between the markers."""
        ...

    @property
    def index(self) -> int | None:
        """The candidate that the answer names; None for an invalid output."""
        ...


@dataclass(frozen=True)
class ReasoningMetrics:
    """Figures of the reasonings of one variant.

    Attributes:
        num_users: Outputs that a chain belongs to.
        complete: All steps of the chain are there.
        grounded: Of the titles that a reasoning cites, the share that is in history or candidates;
            None where nothing is cited.
        num_cited: Cited titles of all users.
        contradicted: The recommending step names one candidate and the answer another, over those
            where both name one; None where there are none.
        unique_sentences: Of all sentences of all users, the share that is different from the
            others; None without any sentence.
        num_words: Words of a reasoning.
    """

    num_users: int
    complete: Share | None
    grounded: Share | None
    num_cited: int
    contradicted: Share | None
    unique_sentences: float | None
    num_words: Share | None


@dataclass(frozen=True)
class _Reading:
    """What one reasoning says; ``contradicted`` is None where chain or answer names nothing."""

    is_complete: bool
    num_cited: int
    num_grounded: int
    contradicted: bool | None
    sentences: tuple[str, ...]
    num_words: int


def reasoning_metrics(
    items: Mapping[str, Item], examples: Sequence[Example], outputs: Sequence[Reasoned]
) -> ReasoningMetrics | None:
    """All figures over the outputs that a chain belongs to; None where there are none.

    Args:
        items: The catalogue.
        examples: One a user.
        outputs: One an example, in their order.
    """
    found = [
        _read(items, example, output, side)
        for example, output in zip(examples, outputs, strict=True)
        if (side := _chain_side(output.side))
    ]
    if not found:
        return None
    sentences = [s for row in found for s in row.sentences]
    flags = [row.contradicted for row in found if row.contradicted is not None]
    return ReasoningMetrics(
        num_users=len(found),
        complete=_share([row.is_complete for row in found]),
        grounded=mean_interval([r.num_grounded / r.num_cited for r in found if r.num_cited]),
        num_cited=sum(row.num_cited for row in found),
        contradicted=_share(flags),
        unique_sentences=len({*sentences}) / len(sentences) if sentences else None,
        num_words=mean_interval([float(row.num_words) for row in found]),
    )


_SIDES: tuple[Side, ...] = get_args(Side)


def _chain_side(side: str) -> Side | None:
    """The side whose chain an output should have; None where it should have none."""
    return next((name for name in _SIDES if name == side and STEPS[name]), None)


def _read(items: Mapping[str, Item], example: Example, output: Reasoned, side: Side) -> _Reading:
    reasoning = output.reasoning
    candidates = [items[item_id].title for item_id in example.candidates]
    chain = parse_chain(reasoning, side)
    last = chain.steps[-1] if isinstance(chain, Chain) else ""
    named = parse_recommendation(last, candidates) if last else None
    cited = cited_titles(reasoning)
    shown = [*candidates, *(items[item_id].title for item_id in example.history)]
    grounded = sum(is_grounded(title, shown) for title in cited)
    both = isinstance(named, int) and output.index is not None
    return _Reading(
        is_complete=isinstance(chain, Chain),
        num_cited=len(cited) + bool(last),  # a recommending step cites by its nature
        num_grounded=grounded + bool(last and find_titles(last, candidates)),
        contradicted=named != output.index if both else None,
        sentences=tuple(s.strip() for s in _SENTENCE.split(reasoning) if s.strip()),
        num_words=len(reasoning.split()),
    )


def cited_titles(reasoning: str) -> list[str]:
    """What is set off as a title: two words or more in quotes or bold that name no step."""
    spans = (next(filter(None, groups)).strip('"“” ') for groups in _QUOTED.findall(reasoning))
    return [s for s in spans if len(s.split()) > 1 and normalize_title(s) not in _HEADINGS]


def is_grounded(cited: str, titles: Sequence[str]) -> bool:
    """Whether it is one of ``titles``, or words from within one, as long ones are often cut."""
    wanted = normalize_title(cited)
    pattern = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    return bool(wanted) and any(pattern.search(normalize_title(t)) for t in titles)


def _share(flags: Sequence[bool]) -> Share | None:
    return wilson(sum(flags), len(flags))
