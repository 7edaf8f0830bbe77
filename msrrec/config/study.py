"""Settings of the study of whether reasoning helps."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from msrrec.config.base import Config
from msrrec.config.data import DemoWorld
from msrrec.config.prompt import Order

StudyArm = Literal["none", "chain", "placebo", "filler", "facts", "direct"]
"""The values of ``train.arm``, and ``direct``, which is trained as ``chain`` and answers
directly."""


class StudyConfig(Config):
    """Settings of the study of whether reasoning helps."""

    runtime: ClassVar[frozenset[str]] = frozenset(
        {
            "train_tokens_per_s",
            "generate_tokens_per_s",
            "example_tokens",
            "output_tokens",
            "start_s",
        }
    )

    worlds: tuple[DemoWorld, ...] = Field(
        default=("mixture", "transitions", "unnamed"), min_length=1
    )
    """Generated worlds to study, see data.demo_world; not used if --dataset names prepared
    datasets."""
    arms: tuple[StudyArm, ...] = Field(
        default=("none", "chain", "placebo", "filler", "facts", "direct"), min_length=1
    )
    """Arms to compare: the values of train.arm, and direct, which is trained on chains and answers
    directly. A verdict needs none and chain."""
    orders: tuple[Order, ...] = Field(default=("history_first", "candidates_first"), min_length=1)
    """Orders of the prompt's lists; every arm is trained and evaluated in each."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Seeds of training and sampling, a model each. Learning rates are chosen with the first."""
    reading: Literal["full", "user", "item", "fused"] = "full"
    """What is read of the arms that write before they answer, see --variant of `msrrec evaluate`;
    the others answer directly."""
    references: tuple[str, ...] = ("category", "teacher")
    """Systems of `msrrec compare` that are evaluated on the same users, beside the arms."""
    discordance: float = Field(default=0.25, gt=0, le=1)
    """Assumed share of users on whom exactly one of two arms is right, for the planned power."""
    seed_spread: float = Field(default=0.01, ge=0, lt=1)
    """Assumed standard deviation of an arm's HitRatio@1 over seeds, for the planned power."""
    target: float = Field(default=0.03, gt=0, lt=1)
    """Difference of HitRatio@1 for which the needed number of users is planned."""
    train_tokens_per_s: float = Field(default=5000, gt=0)
    """Speed of training that --dry-run assumes until a training is finished."""
    generate_tokens_per_s: float = Field(default=1500, gt=0)
    """Speed of generating that --dry-run assumes until an evaluation is finished."""
    example_tokens: int = Field(default=290, ge=1)
    """Tokens of a training example that --dry-run assumes."""
    output_tokens: int = Field(default=70, ge=1)
    """Tokens of an output that --dry-run assumes, mean over the arms."""
    start_s: float = Field(default=40, ge=0)
    """Seconds until workers or an engine are ready that --dry-run assumes."""

    @field_validator("worlds", "arms", "orders", "seeds", "references")
    @classmethod
    def _check_different(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) < len(values):
            raise ValueError("values must differ from one another")
        return values
