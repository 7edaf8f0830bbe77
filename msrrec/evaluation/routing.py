"""Thinking only where it pays: the threshold that validation chooses, and what a route costs.

A route answers directly where the direct answer is confident and generates chains elsewhere, see
``msrrec.inference.routing``. It is measured beside its two ends, which never and always think.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import compress

from msrrec.evaluation.results import RouteEnd, RoutingResult
from msrrec.inference.fusion import SideOutput, fuse
from msrrec.inference.routing import ALWAYS, CHAINS, NEVER, confidence, is_unsure
from msrrec.metrics.statistics import Share, mcnemar, wilson
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

Outputs = Mapping[Side, SideOutput]

_LARGEST = math.nextafter(ALWAYS, NEVER)
"""The largest threshold at which users who are sure of their answers don't think."""


def choose_threshold(examples: Sequence[Example], outputs: Sequence[Outputs]) -> float:
    """The threshold with the most hits; among equals the one that generates the fewest tokens.

    Every way to split these users by confidence is tried, never and always thinking included.

    Args:
        examples: Examples of validation.
        outputs: ``direct``, ``user`` and ``item`` of each example.
    """
    tally = RouteTally()
    tally.add(examples, outputs)
    return tally.choose_threshold()


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
    tally = RouteTally()
    tally.add(examples, outputs)
    return tally.measure(threshold, is_chosen_here=is_chosen_here)


class RouteTally:
    """What a route needs of the users so far: 27 bytes a user, for any threshold."""

    def __init__(self) -> None:
        self._confidence = array("d")
        self._direct_hits, self._fused_hits = bytearray(), bytearray()
        self._direct_tokens, self._chain_tokens = array("q"), array("q")
        self._has_chains = bytearray()

    def add(self, examples: Sequence[Example], outputs: Sequence[Outputs]) -> None:
        """Add users; arguments as of ``measure_route``."""
        for example, both in zip(examples, outputs, strict=True):
            direct, target = both["direct"], example.target_slot
            has_chains = all(side in both for side in CHAINS)
            fused = fuse(both["user"], both["item"]) if has_chains else None
            self._confidence.append(confidence(direct))
            self._direct_hits.append(direct.index == target)
            self._direct_tokens.append(direct.num_tokens)
            self._has_chains.append(has_chains)
            self._fused_hits.append(fused is not None and fused.index == target)
            tokens = sum(both[side].num_tokens for side in CHAINS) if has_chains else 0
            self._chain_tokens.append(tokens)

    def choose_threshold(self) -> float:
        """See the function of this name."""
        assert all(self._has_chains)
        changes = zip(self._confidence, self._fused_hits, self._direct_hits, strict=True)
        gains = sorted((value, after - before) for value, after, before in changes)
        best, chosen, gain = 0, NEVER, 0
        for n, (value, change) in enumerate(gains):
            gain += change
            is_last = n + 1 == len(gains)
            # Users of equal confidence go the same way.
            if gain > best and (is_last or gains[n + 1][0] > value):
                best, chosen = gain, ALWAYS if is_last else min(gains[n + 1][0], _LARGEST)
        return chosen

    def measure(self, threshold: float, *, is_chosen_here: bool = False) -> RoutingResult:
        """See ``measure_route``."""
        thinks = bytes(
            has_chains and is_unsure(value, threshold)
            for value, has_chains in zip(self._confidence, self._has_chains, strict=True)
        )
        ways = zip(thinks, self._fused_hits, self._direct_hits, strict=True)
        routed = bytes(fused if is_thinking else direct for is_thinking, fused, direct in ways)
        num_direct, num_thought = sum(self._direct_tokens), sum(self._chain_tokens)
        num_routed = num_direct + sum(compress(self._chain_tokens, thinks))
        never, always = self._direct_hits, self._fused_hits
        is_complete = all(self._has_chains)
        return RoutingResult(
            threshold=threshold,
            is_chosen_here=is_chosen_here,
            thinking=_ratio(thinks),
            routed=_end(routed, num_routed),
            never=_end(never, num_direct),
            always=_end(always, num_thought) if is_complete else None,
            against_never=mcnemar(routed, never),
            against_always=mcnemar(routed, always) if is_complete else None,
        )


def _end(hits: Sequence[int], num_tokens: int) -> RouteEnd:
    """Hits and generated tokens per user if all of them take the same way."""
    return RouteEnd(hit_ratio=_ratio(hits), tokens_per_user=num_tokens / len(hits))


def _ratio(flags: Sequence[int]) -> Share:
    share = wilson(sum(flags), len(flags))
    assert share is not None  # an evaluation has users
    return share
