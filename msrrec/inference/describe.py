"""One recommendation as the command line prints it."""

from collections.abc import Sequence

from msrrec.inference.fusion import SideOutput, candidate_probabilities
from msrrec.stage import Summary


def describe_side(titles: Sequence[str], output: SideOutput) -> Summary:
    """One side's choice and reasoning; its whole output if that names no candidate."""
    shown = {"reasoning": output.reasoning, "perplexity": output.perplexity}
    if output.index is None:
        return {"item": None, **shown, "text": output.text}
    return {"item": titles[output.index], **shown}


def rank_titles(titles: Sequence[str], chosen: SideOutput) -> list[Summary] | None:
    """All candidates by falling probability; None if probabilities were not measured."""
    shares = zip(titles, candidate_probabilities(chosen), strict=False)
    ranked = sorted(shares, key=lambda pair: -pair[1])
    return [{"item": title, "probability": share} for title, share in ranked] or None
