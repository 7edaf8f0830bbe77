"""Systems that tune the backbone itself, each with prompts of its own; their files load torch.

One file a system has its prompts and what its answers mean; what they share is how texts are
framed (``alpaca``), item vectors in prompts (``items``), training (``tuning``) and what a tuned
model then says (``generation``).
"""

from typing import Literal

from pydantic import ValidationError

from msrrec.config import RunConfig, TrainConfig
from msrrec.errors import ConfigError

Section = Literal["tallrec", "llara"]

_FIXED = {
    "alpha": 0.0,
    "beta": 1.0,
    "reasoning": False,
    "sides": ("full",),
    "behaviour": "pruned",
    "validate_every_steps": 0,
    "keep": "last",
    "patience": 0,
}
"""The loss of the answer alone, at all steps."""


def tuning_config(config: RunConfig, section: Section) -> TrainConfig:
    """How a system trains: by its own section, and in what that leaves open by ``train``.

    Raises:
        ConfigError: If the two don't go together.
    """
    own = getattr(config, section).model_dump()
    shared = {name: value for name, value in own.items() if name in TrainConfig.model_fields}
    try:
        return TrainConfig.model_validate({**config.train.model_dump(), **shared, **_FIXED})
    except ValidationError as error:
        raise ConfigError(f"{section} with train: {error.errors()[0]['msg']}") from error
