"""How raw purchases become a dataset."""

from typing import Literal

from pydantic import Field, model_validator

from msrrec.config.base import Config


class DataConfig(Config):
    """How raw purchases become a dataset."""

    k_core: int = Field(default=5, ge=1)
    """Least events of every user and item, to the fixed point, on the whole category; 1 keeps
    all."""
    num_users: int = Field(default=1500, ge=0)
    """Users sampled after the k-core; 0 keeps all."""
    min_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with fewer events before sampling; unset, a user with fewer than 3 is an
    error."""
    max_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with more events before sampling."""
    history_length: int = Field(default=10, ge=1)
    """Latest events that a prompt shows."""
    train_examples_per_user: int = Field(default=1, ge=0)
    """Latest training events of a user that become examples; 0 takes all with a history."""
    num_negatives: int = Field(default=5, ge=1)
    """Items beside the target in each candidate set, never touched by the user in any split."""
    missing_items: Literal["error", "drop"] | None = None
    """What happens to events whose item has no title; unset: dropped and counted for amazon, an
    error for the other sources."""
    domain: str | None = None
    """What prompts call the shop, such as Electronics; unset: the name of the interactions file."""
    seed: int = Field(default=0, ge=0)
    """Decides users and candidates, whatever the number of workers."""
    demo_users: int = Field(default=1500, ge=20)
    """Users of the embedded world (``--source demo``)."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        low, high = self.min_user_events, self.max_user_events
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_user_events ({low}) must not exceed max_user_events ({high})")
        return self
