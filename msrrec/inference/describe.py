"""One recommendation as the command line prints it."""

from collections.abc import Sequence

from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.ranking import rank_candidates
from msrrec.stage import Summary


def describe(titles: Sequence[str], found: Recommendation) -> Summary:
    """The choice among candidates, what each side wrote, and all candidates in order.

    The ranking is None where likelihoods were not measured.
    """
    chosen = found.chosen
    ranking = [
        {"item": titles[one.index], "index": one.index, "score": one.score}
        for one in rank_candidates(found)
    ]
    return {
        "item": None if found.index is None else titles[found.index],
        "index": found.index,
        "side": found.side,
        "agreement": found.agreement,
        "reasoning": chosen.reasoning if chosen else None,
        "perplexity": chosen.perplexity if chosen else None,
        "sides": {output.side: describe_side(titles, output) for output in found.sides},
        "ranking": ranking or None,
    }


def describe_side(titles: Sequence[str], output: SideOutput) -> Summary:
    """One side's choice and reasoning; its whole output if that names no candidate."""
    shown = {"reasoning": output.reasoning, "perplexity": output.perplexity}
    if output.index is None:
        return {"item": None, **shown, "text": output.text}
    return {"item": titles[output.index], **shown}
