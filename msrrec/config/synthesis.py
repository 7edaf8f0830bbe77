"""Settings for synthesising reasoning paths: how many, and at what cost."""

from typing import ClassVar, Literal

from pydantic import Field

from msrrec.config.base import Config


class SynthesisConfig(Config):
    """Settings for synthesising reasoning paths: how many, and at what cost."""

    runtime: ClassVar[frozenset[str]] = frozenset({"num_actors"})

    tau: int | None = Field(default=None, ge=1)
    """Stop when this many valid paths exist (the paper's threshold). Unset: ask about every example
    once."""
    tau_per_user: int | None = Field(default=None, ge=1)
    """Maximum number of valid paths per user. Unset: no limit."""
    tau_per_category: int | None = Field(default=None, ge=1)
    """Maximum number of valid paths per category, the narrowest category of the target. Unset: no
    limit."""
    attempts: int = Field(default=1, ge=1)
    """Maximum number of completions per example. Only an unreadable one is asked for again; one
    that names another candidate is final, so that retries do not leak the target."""
    max_calls: int | None = Field(default=None, ge=1)
    """Maximum number of paid completions in this output folder, over all runs. Unset: no limit."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens in this output folder, prompts and completions. Unset: no limit."""
    max_cost: float | None = Field(default=None, gt=0)
    """Maximum cost in this output folder, in the currency of the prices. Unset: no limit."""
    num_actors: int = Field(default=1, ge=1)
    """Number of Ray actors that call the teacher."""
    num_examples: int = Field(default=0, ge=0)
    """Number of examples to ask about, the first of the split; 0 takes all."""
    split: Literal["train", "validation", "test"] = "train"
    """Split to ask about: train for training data; test for the references that ``msrrec score``
    compares with."""
    prompt: Literal["chain", "plain"] = "chain"
    """chain asks for the five steps; plain asks for reasoning without named steps, from which no
    path is kept."""
