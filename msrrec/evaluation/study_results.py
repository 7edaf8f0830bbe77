"""Typed results of a study: ``study.json``."""

from typing import ClassVar

from msrrec.embedded.ceiling import Ceiling
from msrrec.evaluation.document import Document, Result
from msrrec.metrics.statistics import SIGNIFICANT, Share

PRIMARY = (("chain", "none"), ("chain", "placebo"), ("chain", "facts"))
"""The contrasts that decide, the first of them the verdict."""
FURTHER = (
    ("chain", "filler"),
    ("chain", "direct"),
    ("placebo", "none"),
    ("filler", "none"),
    ("facts", "none"),
    ("direct", "none"),
)
"""Contrasts that are shown, and decide nothing."""

IN_WORDS = {
    "none": "purchases alone",
    "chain": "reasoning",
    "placebo": "another user's reasoning",
    "filler": "filler of the same length",
    "facts": "facts asked apart",
    "direct": "trained on reasoning, answering directly",
}
"""What an arm writes before its answer, in words."""


def name_order(order: str) -> str:
    """An order of the prompt's lists in words."""
    return order.replace("_", " ")


class ArmResult(Result):
    """One arm on one dataset in one order of the lists."""

    arm: str
    order: str
    reading: str
    """The variant that is compared."""
    seeds: tuple[int, ...]
    num_users: int
    hit_ratio: Share
    """Mean over users and seeds, with its interval over both."""
    by_seed: tuple[float, ...]
    spread: float | None
    """Standard deviation of HitRatio@1 over seeds; None for one seed."""
    valid_ratio: float
    cost: "ArmCost | None" = None


class ArmCost(Result):
    """What an arm took, mean over its seeds; None where that is not recorded.

    Seconds are those of the seeds whose run was not killed and continued, as the parts before are
    not counted.
    """

    learning_rate: float | None = None
    supervised_reasoning: float | None = None
    """Tokens between the markers that it was trained to write."""
    supervised_recommendation: float | None = None
    """Tokens of recommendations that it was trained to write."""
    generated_per_user: float | None = None
    train_s: float | None = None
    evaluate_s: float | None = None

    def tokens_per_hit(self, hit_ratio: float) -> float | None:
        """Generated tokens for each user that is hit."""
        if self.generated_per_user is None or not hit_ratio:
            return None
        return self.generated_per_user / hit_ratio


class Contrast(Result):
    """The difference between two arms on the same users and seeds, in shares of users."""

    first: str
    second: str
    order: str | None
    """Order of the prompt's lists; None for the mean over all orders of the study."""
    is_primary: bool
    difference: float
    low: float
    high: float
    error: float
    p_value: float
    """For other users and, with several seeds, other seeds; exact McNemar with one seed."""
    p_models: float
    """Exact sign-flip test over users, for these very models: other seeds may differ."""
    p_adjusted: float
    """Corrected by Holm over the primary contrasts of the dataset and order; of others, as it
    is."""
    num_users: int
    seeds: tuple[int, ...]
    discordant: float
    """Share of users and seeds on which exactly one of the two is right."""
    spread: float | None
    """Standard deviation of the difference over seeds; None for one seed."""

    @property
    def is_shown(self) -> bool:
        """Whether a difference is shown at 5%."""
        return self.p_adjusted < SIGNIFICANT


class Reference(Result):
    """A system beside the arms, on the same users."""

    label: str
    hit_ratio: Share
    valid_ratio: Share


class DatasetResult(Result):
    """The study of one dataset."""

    name: str
    orders: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    contrasts: tuple[Contrast, ...]
    """Means over orders first, then each order."""
    verdict: str
    references: tuple[Reference, ...] = ()
    ceiling: Ceiling | None = None

    @property
    def headline(self) -> Contrast | None:
        """Reasoning against purchases alone, over all orders; None if an arm is missing."""
        both = PRIMARY[0]
        found = (c for c in self.contrasts if (c.first, c.second) == both and c.order is None)
        return next(found, None)


class Heterogeneity(Result):
    """Whether the headline contrast is the same on all datasets (Cochran's Q)."""

    q: float
    freedom: int
    p_value: float


class Power(Result):
    """What a study can find with probability 0.8 after Holm's correction, planned before it.

    One seed is compared over users alone, so ``spread`` counts with several.
    """

    num_users: int
    num_seeds: int
    num_tests: int
    """Primary contrasts that the arms allow; they are corrected together."""
    discordant: float
    """Assumed share of users on whom exactly one of two arms is right."""
    spread: float
    """Assumed standard deviation of an arm's HitRatio@1 over seeds."""
    target: float
    """The difference to be found."""
    detectable: float | None
    """The smallest difference found; None if even the largest possible one is not."""
    users_needed: int | None
    """Users for the target; None if no number is enough with these seeds."""

    def sentence(self) -> str:
        """The plan in words."""
        if self.detectable is None:
            found = "no difference"
        else:
            found = f"a difference of {100 * self.detectable:.1f} points"
        if self.users_needed is None:
            need = "no number of users is enough with so few seeds"
        else:
            need = f"{self.users_needed:,} users are needed"
        seeds = count_of(self.num_seeds, "seed")
        after = f" after Holm's correction over {self.num_tests}" if self.num_tests > 1 else ""
        spread = f"seeds spread by {100 * self.spread:g} points"
        if self.num_seeds == 1:
            spread = "one seed says nothing of others"
        return (
            f"With {self.num_users:,} users and {seeds}, {found} is found with "
            f"probability 0.8{after}; for {100 * self.target:g} points {need} (assumed: two arms "
            f"differ in {self.discordant:g} of users; {spread})."
        )


class StudyResult(Document):
    """A study; its hits and evaluations are in files beside it."""

    FILE: ClassVar[str] = "study.json"
    KIND: ClassVar[str] = "msrrec-study"
    WHAT: ClassVar[str] = "a study"
    VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "msrrec study"

    verdict: str
    datasets: tuple[DatasetResult, ...]
    heterogeneity: Heterogeneity | None
    """None for one dataset."""
    power: Power | None
    failures: dict[str, str]
    """Reasons why evaluations are missing, by name."""


def count_of(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 seed`` or ``5 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
