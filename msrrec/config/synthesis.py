"""How many paths to make, and for how much."""

from typing import ClassVar, Literal

from pydantic import Field

from msrrec.config.base import Config


class SynthesisConfig(Config):
    """How many paths to make, and for how much."""

    runtime: ClassVar[frozenset[str]] = frozenset({"num_actors"})

    tau: int | None = Field(default=None, ge=1)
    """Stop when so many valid paths exist (the paper's threshold); unset: one pass over all."""
    tau_per_user: int | None = Field(default=None, ge=1)
    """Most valid paths of one user."""
    tau_per_category: int | None = Field(default=None, ge=1)
    """Most valid paths whose bought item is of one category, the narrowest that it has."""
    attempts: int = Field(default=1, ge=1)
    """Answers asked for per example while none can be read; one that names another candidate is
    not asked again, so what the user bought decides no retry."""
    max_calls: int | None = Field(default=None, ge=1)
    """Most answers paid for in this output folder, by all runs together."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Most tokens in this output folder, prompts and answers."""
    max_cost: float | None = Field(default=None, gt=0)
    """Most money spent in this output folder, in the currency of the prices."""
    num_actors: int = Field(default=1, ge=1)
    """Ray actors that call the teacher."""
    num_examples: int = Field(default=0, ge=0)
    """Examples to ask about, in order; 0 takes all."""
    split: Literal["train", "validation", "test"] = "train"
    """train to teach from; test for the references that reasonings are scored against."""
    prompt: Literal["chain", "plain"] = "chain"
    """chain: the five steps; plain: reasoning without named steps, from which no path is kept."""
