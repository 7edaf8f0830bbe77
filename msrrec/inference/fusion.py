"""The choice between the user side and the item side (paper, Eq. 3)."""

from dataclasses import dataclass
from typing import Literal

Agreement = Literal["agree", "differ", "one_valid", "none_valid"]


@dataclass(frozen=True)
class SideOutput:
    """What one side generated.

    Attributes:
        text: The whole output, markers included.
        reasoning: The text between the markers.
        index: 0-based index of the recommended candidate; None when the output is invalid.
        perplexity: Of the reasoning tokens, at temperature 1; None where there are none.
        num_tokens: Generated tokens, markers and answer included.
        perplexity_output: Of reasoning and answer; None where it was not measured.
        perplexity_unconditional: Of the reasoning without the prompt; None where not measured.
        candidate_logprobs: Log-likelihood of each candidate after the reasoning; None where not
            measured.
    """

    side: str
    text: str
    reasoning: str
    index: int | None
    perplexity: float | None
    num_tokens: int
    perplexity_output: float | None = None
    perplexity_unconditional: float | None = None
    candidate_logprobs: tuple[float, ...] | None = None

    @property
    def is_valid(self) -> bool:
        """Whether exactly one candidate is recommended."""
        return self.index is not None


@dataclass(frozen=True)
class Recommendation:
    """The fused result: the chosen side's output, or none."""

    index: int | None
    side: str | None
    agreement: Agreement
    chosen: SideOutput | None


def fuse(user_side: SideOutput, item_side: SideOutput) -> Recommendation:
    """Eq. 3: same item, the lower perplexity wins; different items, the higher one.

    Exactly one valid side wins whatever its perplexity; with none, the recommendation is invalid.
    Equal perplexities, and a side without any, fall to the user side.
    """
    valid = [side for side in (user_side, item_side) if side.is_valid]
    if not valid:
        return Recommendation(None, None, "none_valid", None)
    if len(valid) == 1:
        return Recommendation(valid[0].index, valid[0].side, "one_valid", valid[0])
    agree = user_side.index == item_side.index
    user, item = _known_perplexities(user_side, item_side)
    item_wins = item < user if agree else item > user
    chosen = item_side if item_wins else user_side
    return Recommendation(chosen.index, chosen.side, "agree" if agree else "differ", chosen)


def _known_perplexities(user_side: SideOutput, item_side: SideOutput) -> tuple[float, float]:
    """Both perplexities, made equal when one is unknown, so that the tie rule decides."""
    if user_side.perplexity is None or item_side.perplexity is None:
        return 0.0, 0.0
    return user_side.perplexity, item_side.perplexity
