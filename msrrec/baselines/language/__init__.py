"""Baselines that fine-tune the backbone with their own prompts; they import torch.

Each system has a file with its prompts and the meaning of its answers. Shared parts are the frame
around texts (``alpaca``), item vectors in prompts (``items``), training (``tuning``) and generation
with the tuned model (``generation``).
"""

from typing import Literal

from pydantic import ValidationError

from msrrec.config import RunConfig, TrainConfig
from msrrec.errors import ConfigError

Section = Literal["tallrec", "llara"]

_FIXED = {
    "alpha": 0.0,
    "beta": 1.0,
    "arm": "none",
    "sides": ("full",),
    "behaviour": "pruned",
    "validate_every_steps": 0,
    "keep": "last",
    "patience": 0,
}
"""The loss of the answer alone, at all steps."""


def tuning_config(config: RunConfig, section: Section) -> TrainConfig:
    """Training settings of a system: from its own section, and otherwise from ``train``.

    Raises:
        ConfigError: If the two sections conflict.
    """
    own = getattr(config, section).model_dump()
    shared = {name: value for name, value in own.items() if name in TrainConfig.model_fields}
    try:
        return TrainConfig.model_validate({**config.train.model_dump(), **shared, **_FIXED})
    except ValidationError as error:
        raise ConfigError(f"{section} with train: {error.errors()[0]['msg']}") from error
