"""Settings of the sweep over loss weights, the paper's Figure 6."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from msrrec.config.base import Config


class SweepConfig(Config):
    """Settings of the sweep over loss weights, the paper's Figure 6."""

    runtime: ClassVar[frozenset[str]] = frozenset({"concurrency"})

    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1
    )
    """Values of train.alpha to try; train.beta is 1 minus it, as with AdamW only their ratio
    matters."""
    split: Literal["validation", "test"] = "validation"
    """Split on which the weights are compared; weights chosen on test can't be reported on test."""
    concurrency: int = Field(default=1, ge=1)
    """Number of runs at a time; each needs train.num_workers and inference.num_engines."""

    @field_validator("alphas")
    @classmethod
    def _check_different(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(alphas)) < len(alphas):
            raise ValueError("alphas must differ from one another")
        return alphas
