"""Low-rank adaptation, wherever weights are tuned."""

from typing import Literal

from pydantic import Field

from msrrec.config.base import Config


class LoraConfig(Config):
    """The matrices that are trained beside frozen linear layers."""

    rank: int = Field(default=8, ge=1)
    """Rank of the LoRA matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the LoRA update, divided by the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the LoRA matrices."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers with LoRA matrices by the last part of their names; all of them trains fastest
    on processors."""
