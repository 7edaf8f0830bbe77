"""The systems to compare with."""

from typing import ClassVar

from pydantic import Field

from msrrec.config.base import Config
from msrrec.config.lora import LoraConfig


class BaselinesConfig(Config):
    """The systems to compare with that learn or need a model."""

    runtime: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    folders: ClassVar[frozenset[str]] = frozenset({"embedding_model"})

    trials: int = Field(default=4, ge=1)
    """Settings tried by each sequential system, its usual ones first; validation chooses."""
    max_epochs: int = Field(default=200, ge=1)
    """Passes over the training events, at most."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a better validation figure after which a trial ends."""
    batch_size: int = Field(default=1024, ge=1)
    """Supervised events of one step, about."""
    history_length: int = Field(default=10, ge=1)
    """Latest events that a sequential system sees."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers; they share the trials among them."""
    embedding_model: str | None = None
    """Sentence-embedding model of the embedding systems: a folder or a hub name."""


class ListConfig(Config):
    """Settings of systems whose prompts list history and candidates."""

    candidates_first: bool = False
    """List the candidates before the history, unlike the authors.

    A model of few layers compares each purchase with candidates that it has read, and the answer
    sums up the purchases; the other way round it must compare, then choose, which takes more layers
    or far more training.
    """


class TallrecConfig(ListConfig):
    """TALLRec as a system to compare with; what is not here is as in ``train``.

    LoRA as in its authors' code; they tune on 16 to 256 examples, this on the training split.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    num_epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    global_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with a rising learning rate."""
    lora: LoraConfig = LoraConfig(alpha=16, dropout=0.05, targets=("q_proj", "v_proj"))
    """The matrices that are trained."""
    train_on_inputs: bool = False
    """Learn to write the prompts as well, as the authors' code does."""


class LlaraConfig(ListConfig):
    """LLaRA as a system to compare with; what is not here is as in ``train``.

    Its SASRec has the settings of ``baselines``.
    """

    learning_rate: float = Field(default=8e-4, gt=0)
    """Peak learning rate of AdamW, for LoRA matrices and projector."""
    num_epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    global_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of steps with a rising learning rate."""
    lora: LoraConfig = LoraConfig(dropout=0.1)
    """The matrices that are trained."""
    projector_weight_decay: float = Field(default=1e-5, ge=0)
    """Weight decay of the projector."""
