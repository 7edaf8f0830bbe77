"""The choice between user side and item side (paper, Eq. 3), and other rules to study."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Agreement = Literal["agree", "differ", "one_valid", "none_valid"]


@dataclass(frozen=True)
class SideOutput:
    """One side's generation, read.

    Attributes:
        text: The whole output, markers included.
        reasoning: The text between the markers.
        index: 0-based index of the recommended candidate; None when the output is invalid.
        perplexity: Perplexity of the reasoning tokens at temperature 1; None if there are none.
        num_tokens: Generated tokens, markers and answer included.
        perplexity_output: Perplexity of reasoning and answer; None where not measured.
        perplexity_unconditional: Perplexity of the reasoning without the prompt; None where not
            measured.
        candidate_logprobs: Log-likelihood of each candidate after the reasoning, as of
            ``scoring.candidate_logprobs``; None where not measured.
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
        """Whether exactly one candidate is recommended, with a perplexity that is a number."""
        return self.index is not None and not math.isnan(self.perplexity or 0.0)


@dataclass(frozen=True)
class Recommendation:
    """The fused result: the chosen side's output, or none; and the outputs of all sides."""

    index: int | None
    side: str | None
    agreement: Agreement
    chosen: SideOutput | None
    sides: tuple[SideOutput, ...]


ItemWins = Callable[[SideOutput, SideOutput], bool]
"""A fusion rule: whether the item side wins over the user side; both are valid."""


def by_equation_3(user_side: SideOutput, item_side: SideOutput) -> bool:
    """Eq. 3: the lower perplexity wins if both name the same item, else the higher."""
    agree = user_side.index == item_side.index
    return (by_lower if agree else by_higher)(user_side, item_side)


def by_lower(user_side: SideOutput, item_side: SideOutput) -> bool:
    """Always the lower perplexity."""
    user, item = _known_perplexities(user_side, item_side)
    return item < user


def by_higher(user_side: SideOutput, item_side: SideOutput) -> bool:
    """Always the higher perplexity."""
    user, item = _known_perplexities(user_side, item_side)
    return item > user


def by_margin(user_side: SideOutput, item_side: SideOutput) -> bool:
    """The side with the larger log-likelihood margin between its best and second candidate."""
    return confidence_margin(item_side) > confidence_margin(user_side)


def confidence_margin(side: SideOutput) -> float:
    """Log-likelihood of a side's best candidate minus its second; 0 if not measured."""
    if not side.candidate_logprobs or len(side.candidate_logprobs) < 2:
        return 0.0
    second, best = sorted(side.candidate_logprobs)[-2:]
    return best - second if second > -math.inf else math.inf


def candidate_probabilities(side: SideOutput) -> tuple[float, ...]:
    """The candidates' likelihoods normalised to sum 1; empty if not measured."""
    if not side.candidate_logprobs:
        return ()
    best = max(side.candidate_logprobs)
    weights = [math.exp(value - best) for value in side.candidate_logprobs]
    return tuple(weight / math.fsum(weights) for weight in weights)


def by_vote(others: Iterable[SideOutput]) -> ItemWins:
    """A rule: the item named by most outputs (both sides and ``others``); Eq. 3 breaks ties."""
    votes = Counter(output.index for output in others if output.is_valid)

    def item_wins(user_side: SideOutput, item_side: SideOutput) -> bool:
        user, item = votes[user_side.index], votes[item_side.index]
        return by_equation_3(user_side, item_side) if user == item else item > user

    return item_wins


def by_likelihood_vote(others: Iterable[SideOutput]) -> ItemWins:
    """A rule: the item whose outputs are likeliest together (2502.00511, without its pruning).

    Each output votes with its probability per token, 1 / perplexity of reasoning and answer. The
    paper fits two Weibull distributions to prune unlikely outputs, which takes more than a few.
    """
    votes: dict[int | None, float] = defaultdict(float)
    for output in others:
        value = output.perplexity_output or output.perplexity
        if output.is_valid and value:
            votes[output.index] += 1.0 / value

    def item_wins(user_side: SideOutput, item_side: SideOutput) -> bool:
        return votes[item_side.index] > votes[user_side.index]

    return item_wins


def by_joint_likelihood(user_side: SideOutput, item_side: SideOutput) -> bool:
    """The higher log-likelihood of reasoning and answer together (PiCSAR, 2508.21787)."""
    user, item = joint_loglikelihood(user_side), joint_loglikelihood(item_side)
    return user is not None and item is not None and item > user


def joint_loglikelihood(side: SideOutput) -> float | None:
    """Summed log-likelihood of all tokens of an output; None if not measured."""
    if not side.perplexity_output:
        return None
    return -side.num_tokens * math.log(side.perplexity_output)


def by_certainty(user_side: SideOutput, item_side: SideOutput) -> bool:
    """The side whose candidates' probabilities are farther from uniform, see ``certainty``."""
    return certainty(item_side) > certainty(user_side)


def certainty(side: SideOutput) -> float:
    """Self-certainty (2502.18581) over the candidates: KL divergence of uniform from them.

    The paper takes the mean over all tokens of the divergence over the vocabulary. Engines keep the
    log-probability of the sampled token alone, so it is taken over the candidates' likelihoods at
    the answer. 0 if these were not measured.
    """
    logprobs = side.candidate_logprobs
    if not logprobs:
        return 0.0
    best = max(logprobs)
    total = best + math.log(math.fsum(math.exp(value - best) for value in logprobs))
    return total - math.fsum(logprobs) / len(logprobs) - math.log(len(logprobs))


def by_coin(key: str) -> ItemWins:
    """A rule: heads or tails by a hash of a key, the same at every call."""
    is_heads = hashlib.sha256(f"coin {key}".encode()).digest()[0] % 2 == 1
    return lambda user_side, item_side: is_heads


@dataclass(frozen=True)
class Gate:
    """A fitted fusion rule: log-odds that the item side is right if exactly one side is.

    Attributes:
        weights: The intercept, and the weights of the log-perplexities of user and item side.
        num_users: Number of users that it was fitted on.
    """

    weights: tuple[float, float, float]
    num_users: int

    def __call__(self, user_side: SideOutput, item_side: SideOutput) -> bool:
        """Whether the item side is more likely to be right."""
        user, item = _known_perplexities(user_side, item_side)
        if not user or not item:
            return False
        constant, of_user, of_item = self.weights
        return constant + of_user * math.log(user) + of_item * math.log(item) > 0


def fuse(
    user_side: SideOutput, item_side: SideOutput, item_wins: ItemWins = by_equation_3
) -> Recommendation:
    """The recommendation by Eq. 3 or another rule, including invalid sides.

    If exactly one side is valid it wins whatever its perplexity; if none is, the recommendation is
    invalid. With equal perplexities, or if a side has none, the user side wins.
    """
    if not (user_side.is_valid and item_side.is_valid):
        return choose_valid(user_side, item_side)
    agree = user_side.index == item_side.index
    chosen = item_side if item_wins(user_side, item_side) else user_side
    sides = (user_side, item_side)
    return Recommendation(chosen.index, chosen.side, "agree" if agree else "differ", chosen, sides)


def choose_valid(*sides: SideOutput) -> Recommendation:
    """The only valid one of some sides, if there is one."""
    for side in sides:
        if side.is_valid:
            return Recommendation(side.index, side.side, "one_valid", side, sides)
    return Recommendation(None, None, "none_valid", None, sides)


def _known_perplexities(user_side: SideOutput, item_side: SideOutput) -> tuple[float, float]:
    """Both perplexities, set equal if one is unknown, so that the tie rule decides."""
    if user_side.perplexity is None or item_side.perplexity is None:
        return 0.0, 0.0
    return user_side.perplexity, item_side.perplexity
