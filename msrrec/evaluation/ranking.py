"""HitRatio@1 and ValidRatio, whole and by the target's slot.

HitRatio@1 counts invalid outputs as misses (hits over all users), as the paper does.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from msrrec.evaluation.statistics import uniform_p_value, wilson
from msrrec.schema import Example


def hits(examples: Sequence[Example], choices: Sequence[str | None]) -> list[bool]:
    """Whether each choice (an item id, None for an invalid output) is its example's target."""
    return [e.target == choice for e, choice in zip(examples, choices, strict=True)]


def rank_metrics(examples: Sequence[Example], choices: Sequence[str | None]) -> dict[str, Any]:
    """Counts, HitRatio@1 over all users and among valid ones, ValidRatio, and the slots."""
    is_hit = hits(examples, choices)
    num_valid = sum(choice is not None for choice in choices)
    return {
        "num_users": len(examples),
        "num_hits": sum(is_hit),
        "num_valid": num_valid,
        "hit_ratio": _share(sum(is_hit), len(examples)),
        "valid_ratio": _share(num_valid, len(examples)),
        "hit_ratio_valid": _share(sum(is_hit), num_valid),
        "slots": _slots(examples, choices, is_hit),
        "hit_bits": pack_bits(is_hit),
    }


def pack_bits(flags: Sequence[bool]) -> str:
    """One bit a user as hexadecimal digits, so that metrics.json can be paired with another's."""
    return np.packbits(np.array(flags, dtype=bool)).tobytes().hex()


def unpack_bits(text: str, count: int) -> list[bool]:
    """The inverse of ``pack_bits`` for ``count`` users."""
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return [bool(bit) for bit in np.unpackbits(packed, count=count)]


def chance(examples: Sequence[Example]) -> float:
    """The expected HitRatio@1 of a random candidate; 0 without examples."""
    return math.fsum(1 / len(e.candidates) for e in examples) / max(len(examples), 1)


def _slots(
    examples: Sequence[Example], choices: Sequence[str | None], is_hit: Sequence[bool]
) -> dict[str, Any]:
    """By position in the candidate list: users with the target there, their hits, all choices."""
    num_slots = max((len(e.candidates) for e in examples), default=0)
    targets, slot_hits, chosen = [0] * num_slots, [0] * num_slots, [0] * num_slots
    for example, choice, hit in zip(examples, choices, is_hit, strict=True):
        slot = example.candidates.index(example.target)
        targets[slot] += 1
        slot_hits[slot] += hit
        if choice is not None:
            chosen[example.candidates.index(choice)] += 1
    return {
        "num_users": targets,
        "hit_ratio": [_share(h, n) for h, n in zip(slot_hits, targets, strict=True)],
        "num_chosen": chosen,
        "uniform_p_value": uniform_p_value(chosen),
    }


def _share(count: int, total: int) -> dict[str, float] | None:
    share = wilson(count, total)
    return asdict(share) if share else None
