"""Reasonings judged by themselves: complete, grounded, consistent with the answer, varied.

Nothing here needs a reference or a model; ``score`` has the metrics that do.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from msrrec import schema
from msrrec.metrics.statistics import mean_interval, wilson
from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import Chain, parse_chain
from msrrec.reasoning.prompts import STEPS, Side
from msrrec.schema import Example, Item
from msrrec.titles import find_titles, normalize_title

_QUOTED = re.compile(r'"([^"\n]{3,200})"|“([^”\n]{3,200})”|\*\*([^*\n]{3,200})\*\*')
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_HEADINGS = {normalize_title(name) for names in STEPS.values() for name in names}

Row = Mapping[str, Any]
Figures = dict[str, Any]


def reasoning_metrics(
    items: Mapping[str, Item], examples: Sequence[Example], rows: Sequence[Row]
) -> Figures | None:
    """All figures over the rows that a chain belongs to; None where no row has one.

    ``complete``: all steps of the chain are there. ``grounded``: of the titles that a reasoning
    cites, the share that is in history or candidates. ``contradicted``: the recommending step names
    one candidate and the answer another, over those where both name one. ``unique_sentences``: of
    all sentences of all users, the share that is different from the others.
    """
    found = [
        _read(items, example, row)
        for example, row in zip(examples, rows, strict=True)
        if row["side"] in get_args(Side) and STEPS[row["side"]]
    ]
    if not found:
        return None
    sentences = [s for row in found for s in row["sentences"]]
    cited = [row["grounded"] / row["cited"] for row in found if row["cited"]]
    contradictions = [row["contradicted"] for row in found if row["contradicted"] is not None]
    return {
        "num_users": len(found),
        "complete": _share([row["complete"] for row in found]),
        "grounded": _mean(cited),
        "num_cited": sum(row["cited"] for row in found),
        "contradicted": _share(contradictions),
        "unique_sentences": len({*sentences}) / len(sentences) if sentences else None,
        "num_words": _mean([float(row["num_words"]) for row in found]),
    }


def _read(items: Mapping[str, Item], example: Example, row: Row) -> Figures:
    """What one reasoning says of itself."""
    reasoning, side = row["reasoning"], row["side"]
    candidates = [items[item_id].title for item_id in example.candidates]
    chain = parse_chain(reasoning, side)
    last = chain.steps[-1] if isinstance(chain, Chain) else ""
    named = parse_recommendation(last, candidates) if last else None
    cited = cited_titles(reasoning)
    shown = [*candidates, *(items[item_id].title for item_id in example.history)]
    grounded = sum(is_grounded(title, shown) for title in cited)
    contradicted = None
    if isinstance(named, int) and row[schema.ITEM_ID] is not None:
        contradicted = example.candidates[named] != row[schema.ITEM_ID]
    return {
        "complete": isinstance(chain, Chain),
        "cited": len(cited) + bool(last),  # a recommending step cites by its nature
        "grounded": grounded + bool(last and find_titles(last, candidates)),
        "contradicted": contradicted,
        "sentences": [s.strip() for s in _SENTENCE.split(reasoning) if s.strip()],
        "num_words": len(reasoning.split()),
    }


def cited_titles(reasoning: str) -> list[str]:
    """What is set off as a title: two words or more in quotes or bold that name no step."""
    spans = (next(filter(None, groups)).strip('"“” ') for groups in _QUOTED.findall(reasoning))
    return [s for s in spans if len(s.split()) > 1 and normalize_title(s) not in _HEADINGS]


def is_grounded(cited: str, titles: Sequence[str]) -> bool:
    """Whether it is one of ``titles``, or words from within one, as long ones are often cut."""
    wanted = normalize_title(cited)
    pattern = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    return bool(wanted) and any(pattern.search(normalize_title(t)) for t in titles)


def _share(flags: Sequence[bool]) -> dict[str, float] | None:
    share = wilson(sum(flags), len(flags))
    return asdict(share) if share else None


def _mean(values: Sequence[float]) -> dict[str, float] | None:
    share = mean_interval(values)
    return asdict(share) if share else None
