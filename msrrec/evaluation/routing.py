"""Thinking only where it pays: the threshold that validation chooses, and what a route costs.

A route answers directly where the direct answer is confident and generates chains elsewhere, see
``msrrec.inference.routing``. It is measured beside its two ends, which never and always think.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msrrec.evaluation.results import RouteEnd, RoutingResult
from msrrec.inference.fusion import SideOutput, fuse
from msrrec.inference.routing import ALWAYS, CHAINS, NEVER, confidence, route
from msrrec.metrics.statistics import mcnemar, wilson
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

Outputs = Mapping[Side, SideOutput]


@dataclass(frozen=True)
class _End:
    """Hits and generated tokens per user if all of them take the same way."""

    hits: Sequence[bool]
    tokens: Sequence[int]

    def result(self) -> RouteEnd:
        ratio = wilson(sum(self.hits), len(self.hits))
        assert ratio is not None  # an evaluation has users
        return RouteEnd(hit_ratio=ratio, tokens_per_user=sum(self.tokens) / len(self.tokens))


def choose_threshold(examples: Sequence[Example], outputs: Sequence[Outputs]) -> float:
    """The threshold with the most hits; among equals the one that generates the fewest tokens.

    Every way to split these users by confidence is tried, never and always thinking included.

    Args:
        examples: Examples of validation.
        outputs: ``direct``, ``user`` and ``item`` of each example.
    """
    direct, chains = _never(examples, outputs), _always(examples, outputs)
    assert chains is not None
    gains = sorted(
        (confidence(both["direct"]), after - before)
        for both, before, after in zip(outputs, direct.hits, chains.hits, strict=True)
    )
    best, chosen, gain = 0, NEVER, 0
    for n, (value, change) in enumerate(gains):
        gain += change
        is_last = n + 1 == len(gains)
        # Users of equal confidence go the same way.
        if gain > best and (is_last or gains[n + 1][0] > value):
            best, chosen = gain, ALWAYS if is_last else gains[n + 1][0]
    return chosen


def measure_route(
    examples: Sequence[Example],
    outputs: Sequence[Outputs],
    threshold: float,
    *,
    is_chosen_here: bool = False,
) -> RoutingResult:
    """Hits, tokens and share of users that think, beside the two ends.

    Args:
        examples: One example per user, at least one.
        outputs: ``direct`` of each example, and the chains at least where the route thinks.
        threshold: See ``msrrec.inference.routing.thinks``.
        is_chosen_here: Whether the threshold was chosen on these users.
    """
    never, always = _never(examples, outputs), _always(examples, outputs)
    routes = [route(both, threshold) for both in outputs]
    routed = _End(
        [found.index == _target(e) for e, found in zip(examples, routes, strict=True)],
        [sum(side.num_tokens for side in found.sides) for found in routes],
    )
    thinking = wilson(sum(len(found.sides) > 1 for found in routes), len(routes))
    assert thinking is not None
    return RoutingResult(
        threshold=threshold,
        is_chosen_here=is_chosen_here,
        thinking=thinking,
        routed=routed.result(),
        never=never.result(),
        always=always.result() if always else None,
        against_never=mcnemar(routed.hits, never.hits),
        against_always=mcnemar(routed.hits, always.hits) if always else None,
    )


def _target(example: Example) -> int:
    return example.candidates.index(example.target)


def _never(examples: Sequence[Example], outputs: Sequence[Outputs]) -> _End:
    """Only direct answers."""
    pairs = list(zip(examples, (both["direct"] for both in outputs), strict=True))
    hits = [output.is_valid and output.index == _target(e) for e, output in pairs]
    return _End(hits, [output.num_tokens for _, output in pairs])


def _always(examples: Sequence[Example], outputs: Sequence[Outputs]) -> _End | None:
    """Both chains and Eq. 3, without a direct answer; None where some were not generated."""
    if not all(side in both for both in outputs for side in CHAINS):
        return None
    hits = [
        fuse(both["user"], both["item"]).index == _target(e)
        for e, both in zip(examples, outputs, strict=True)
    ]
    return _End(hits, [sum(both[side].num_tokens for side in CHAINS) for both in outputs])
