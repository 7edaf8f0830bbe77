"""Typed result of interventions on chains: ``report/faithfulness.json``."""

from typing import ClassVar, Literal

from msrrec.evaluation.document import Document, Result
from msrrec.metrics.statistics import Paired, Share
from msrrec.reasoning.edits import ParaphraseFlaw
from msrrec.reasoning.prompts import Side
from msrrec.stage import Summary

Control = Literal["unchanged", "continued", "regenerated", "random_removed"]
"""What an intervention is compared with: the whole chain kept and the answer sampled; the chain
kept to the end of its matching step and the rest sampled; everything sampled again; other purchases
left out."""


class InterventionResult(Result):
    """How often one intervention changes the choice."""

    name: str
    """Such as ``cut_2``, ``mistake`` or ``shuffled``; a control has its own name."""
    label: str
    num_users: int
    """Users whom it can be made for."""
    changed: Share | None
    """Share of them with another choice than after the unchanged chain."""
    hit_ratio: Share | None
    """HitRatio@1 of the choices after it, on the same users."""
    control: Control | None
    """None for a control."""
    control_changed: Share | None = None
    """The control's share of changed choices on the same users."""
    against: Paired | None = None
    """Exact McNemar test of changed choices: the intervention (first) against its control."""
    p_adjusted: float | None = None
    """After Holm's correction over all interventions."""
    followed: Share | None = None
    """Share of users whose choice is the one that the mistake names; only of mistakes."""


class ParaphraseFacts(Result):
    """What became of the paraphrases that a teacher was to write."""

    num_asked: int
    """Users whose chain was to be put in other words."""
    num_usable: int
    """Of them, those with a paraphrase that keeps headings, titles and list numbers. The others
    have none, and are left out of the intervention."""
    flaws: dict[ParaphraseFlaw, int]
    """How many of the others have which flaw."""


class FaithfulnessResult(Document):
    """Whether a model's choices follow from its chains (after Lanham et al., 2307.13702)."""

    FILE: ClassVar[str] = "report/faithfulness.json"
    KIND: ClassVar[str] = "msrrec-faithfulness"
    WHAT: ClassVar[str] = "interventions on chains"
    VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "msrrec faithfulness"

    system: str
    """Label of the system."""
    side: Side
    """Whose chains were changed."""
    num_evaluated: int
    """Users of the evaluation."""
    num_whole: int
    """Of them, those with a whole chain and a valid choice."""
    num_users: int
    """Of them, those that were asked again, the first ones."""
    hit_ratio: Share | None
    """HitRatio@1 of their choices after the unchanged chain."""
    temperature: float
    """Of everything that is sampled again."""
    seed: int
    paraphraser: str
    paraphrases: ParaphraseFacts | None = None
    """None where a program wrote them."""
    rows: tuple[InterventionResult, ...]
    """Controls first."""

    def summary(self) -> Summary:
        """The figures that the command prints."""
        return dict(self.model_dump(mode="json"))
