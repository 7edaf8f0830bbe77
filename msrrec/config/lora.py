"""Settings of LoRA, shared by everything that is fine-tuned."""

from typing import Literal

from pydantic import Field

from msrrec.config.base import Config


class LoraConfig(Config):
    """Settings of the trainable low-rank matrices beside frozen linear layers."""

    rank: int = Field(default=8, ge=1)
    """Rank of the LoRA matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the LoRA update; the update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability on the input of the LoRA matrices."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers that get LoRA matrices, by the last part of their names; all-linear trains
    fastest on CPUs."""
