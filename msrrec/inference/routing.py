"""The route of a user: the direct answer where it is confident, else both chains and their fusion.

That reasoning should be spent only where it pays is the idea of "Think When Needed" (2601.18146).
Its router is a trained head that decides before anything is generated; here the direct answer,
which is short, is generated for everyone, and its probability decides.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from msrrec.inference.fusion import (
    Recommendation,
    SideOutput,
    choose_valid,
    fuse,
    joint_loglikelihood,
)
from msrrec.reasoning.prompts import Side

NEVER, ALWAYS = 0.0, 1.0
"""The thresholds at which no user and every user thinks."""

CHAINS: tuple[Side, ...] = ("user", "item")
"""What is generated for a user who thinks."""


def confidence(direct: SideOutput) -> float:
    """Probability of a direct answer given its prompt, over all its tokens at temperature 1.

    0 if it names no candidate, so that such a user thinks unless nobody does.
    """
    value = joint_loglikelihood(direct) if direct.is_valid else None
    return 0.0 if value is None else math.exp(min(value, 0.0))


def thinks(direct: SideOutput, threshold: float) -> bool:
    """Whether chains are generated for a user with this direct answer.

    Args:
        direct: The answer without reasoning.
        threshold: In [0, 1]; a confidence below it thinks. At 1 everyone does.
    """
    return is_unsure(confidence(direct), threshold)


def is_unsure(value: float, threshold: float) -> bool:
    """Whether a direct answer of this confidence is not enough, see ``thinks``."""
    return threshold >= ALWAYS or value < threshold


def route(outputs: Mapping[Side, SideOutput], threshold: float | None = None) -> Recommendation:
    """The direct answer where it is confident or nothing else was generated, else Eq. 3.

    Args:
        outputs: ``direct``, and ``user`` and ``item`` where the user thinks.
        threshold: See ``thinks``; None: everyone with chains thinks.

    Returns:
        The recommendation, whose sides are all outputs that the route generates.
    """
    direct = outputs["direct"]
    has_chains = all(side in outputs for side in CHAINS)
    if not has_chains or (threshold is not None and not thinks(direct, threshold)):
        return choose_valid(direct)
    fused = fuse(outputs["user"], outputs["item"])
    return replace(fused, sides=(direct, *fused.sides))
