"""Settings of the baselines."""

from typing import Annotated, ClassVar

from pydantic import Field

from msrrec.config.base import Config
from msrrec.config.lora import LoraConfig


class BaselinesConfig(Config):
    """Settings of the baselines that are trained or need an embedding model."""

    runtime: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    folders: ClassVar[frozenset[str]] = frozenset({"embedding_model"})

    trials: int = Field(default=4, ge=1)
    """Combinations of settings that each sequential or tuned baseline tries, its usual ones first;
    validation picks one."""
    max_epochs: int = Field(default=200, ge=1)
    """Maximum number of passes over the training interactions."""
    patience: int = Field(default=10, ge=1)
    """A trial stops after this many epochs without a better validation result."""
    batch_size: int = Field(default=1024, ge=1)
    """Approximate number of supervised interactions per training step."""
    history_length: int = Field(default=10, ge=1)
    """Number of latest interactions that a sequential baseline sees."""
    num_workers: int = Field(default=1, ge=1)
    """Number of Ray Train workers that share the trials."""
    arm_learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Values of train.learning_rate that ``compare`` tries for MSR-Rec and each of its controls, a
    training each; HitRatio@1 on validation picks one. Empty: train.learning_rate alone."""
    arm_validation_users: int = Field(default=0, ge=0)
    """Validation users on whom these rates are compared, the first of the split; 0 takes as many as
    evaluate.num_users."""
    embedding_model: str | None = None
    """Sentence-embedding model of the embedding baselines: ``minilm`` from a Python package, a
    folder or a Hugging Face hub name. Unset: these baselines can't run."""


class TallrecConfig(Config):
    """Settings of TALLRec; what is not listed here is taken from ``train``.

    The LoRA defaults are those of the authors' code. They tune on 16 to 256 examples; here the
    whole training split is used.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    num_epochs: int = Field(default=5, ge=1)
    """Number of passes over the training examples."""
    global_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all workers."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps during which the learning rate rises."""
    lora: LoraConfig = LoraConfig(alpha=16, dropout=0.05, targets=("q_proj", "v_proj"))
    """Settings of the LoRA matrices."""
    train_on_inputs: bool = False
    """Also compute the loss on the prompt's tokens, as the authors' code does."""


class LlaraConfig(Config):
    """Settings of LLaRA; what is not listed here is taken from ``train``.

    The SASRec inside it uses the settings of ``baselines``.
    """

    learning_rate: float = Field(default=8e-4, gt=0)
    """Peak learning rate of AdamW, for the LoRA matrices and the projector."""
    num_epochs: int = Field(default=5, ge=1)
    """Number of passes over the training examples."""
    global_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all workers."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps during which the learning rate rises."""
    lora: LoraConfig = LoraConfig(dropout=0.1)
    """Settings of the LoRA matrices."""
    projector_weight_decay: float = Field(default=1e-5, ge=0)
    """Weight decay of the projector, which maps SASRec's item vectors to token embeddings."""
