"""One recommendation as the command line prints it."""

from collections.abc import Sequence

from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.ranking import rank_candidates
from msrrec.stage import Summary


def describe_side(titles: Sequence[str], output: SideOutput) -> Summary:
    """One side's choice and reasoning; its whole output if that names no candidate."""
    shown = {"reasoning": output.reasoning, "perplexity": output.perplexity}
    if output.index is None:
        return {"item": None, **shown, "text": output.text}
    return {"item": titles[output.index], **shown}


def rank_titles(
    titles: Sequence[str], found: Recommendation, top_k: int | None = None
) -> list[Summary]:
    """The best candidates with their scores, see ``rank_candidates``; empty if not measured."""
    ranked = rank_candidates(found)[:top_k]
    return [{"item": titles[one.index], "index": one.index, "score": one.score} for one in ranked]
