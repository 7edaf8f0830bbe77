"""What a run of ``bench.real_backbone`` is, where it runs, and what it gives."""

from dataclasses import dataclass
from typing import Any

from msrrec.reasoning.prompts import Side
from msrrec.schema import Split

REASONS = ("chain", "placebo", "filler")
"""Arms that write something between the markers."""


@dataclass(frozen=True)
class Spec:
    """A run: what is trained on what, and who is asked.

    Attributes:
        dataset: Name of a folder of ``Place.data``.
        arm: As in ``TrainConfig``; ``untuned`` trains nothing.
        rate: Peak learning rate.
        plain: Whether every training example also teaches the next title without a list.
        users: The first users of the split; 0 for all.
        max_steps: Steps after which training breaks off; 0 for none.
    """

    dataset: str
    arm: str
    order: str
    seed: int
    rate: float = 0.0
    epochs: int = 1
    rank: int = 8
    plain: bool = False
    split: Split = "test"
    users: int = 0
    max_steps: int = 0

    @property
    def kind(self) -> str:
        """Name of the arm with what differs from the others."""
        return self.arm + ("+plain" if self.plain else "")

    @property
    def name(self) -> str:
        """A name that no other run has."""
        return (
            f"{self.dataset}/{self.split}/{self.kind}/{self.order}/seed{self.seed}"
            f"/rate{self.rate:g}x{self.epochs}r{self.rank}"
        )


@dataclass(frozen=True)
class Place:
    """Where runs find what they need, and how they compute.

    Attributes:
        model: Folder of the base model.
        data: Folder with a folder per dataset, each with ``dataset`` and ``reasoning``.
        slots: Tokens in the cache of outputs that are sampled at once.
        micro_batch: Examples of a forward pass.
        global_batch: Examples of a step.
        attention: As in ``TrainConfig``.
        sides: Chains that training has.
        asked: Chains that inference has; none: those of training.
        preset: Settings that a run doesn't vary.
        is_sampled_only: Whether no likelihoods of candidates are read.
    """

    model: str
    data: str
    device: str
    slots: int = 250_000
    micro_batch: int = 32
    global_batch: int = 32
    attention: str = "auto"
    sides: tuple[Side, ...] = ("user", "item")
    asked: tuple[Side, ...] = ()
    preset: str = "smollm2"
    is_sampled_only: bool = False


@dataclass(frozen=True)
class Answers:
    """What a run answered.

    Attributes:
        rows: One per user and reading: the columns of ``hits.parquet``.
        outputs: One per user and side: the columns of ``outputs.parquet``.
        facts: Settings, losses, tokens and seconds.
    """

    rows: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    facts: dict[str, Any]
