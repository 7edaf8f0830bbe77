"""Settings of the reasoning-enhanced fine-tuning."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from msrrec.config.base import Config
from msrrec.config.lora import LoraConfig

Arm = Literal["chain", "none", "placebo", "filler", "facts"]
"""What a model learns to write before its answer: chains of reasoning, or a control."""


class TrainConfig(Config):
    """Settings of the reasoning-enhanced fine-tuning (paper, Eq. 1-2, Implementation Details)."""

    runtime: ClassVar[frozenset[str]] = frozenset(
        {
            "num_workers",
            "min_workers",
            "use_gpu",
            "strategy",
            "checkpoint_every_steps",
            "log_every_steps",
            "tensorboard",
            "max_failures",
            "gradient_checkpointing",
            "compile",
            "attention",
        }
    )

    alpha: float = Field(default=0.7, ge=0)
    """Weight of the reasoning loss (paper, Eq. 1)."""
    beta: float = Field(default=0.3, ge=0)
    """Weight of the recommendation loss (paper, Eq. 1)."""
    arm: Arm = "chain"
    """What stands between the markers. chain: the kept path. The others are its controls, of the
    same purchases in the same order and as many steps: none (purchases alone), placebo (another
    user's path), filler (as many tokens that say nothing), facts (as many tokens of categories,
    asked apart in the same step)."""
    sides: tuple[Literal["full", "user", "item"], ...] = ("full",)
    """Chains that each kept path teaches: full is the paper's; user and item are cut from its steps
    and help small backbones, which can't follow unseen instructions."""
    behaviour: Literal["pruned", "all"] = "pruned"
    """Users who also train on their purchase alone: pruned takes those without a kept path, all
    takes everyone."""
    num_epochs: int = Field(default=5, ge=1)
    """Number of passes over the training examples."""
    global_batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step, over all workers and accumulation steps."""
    micro_batch_size: int = Field(default=4, ge=1)
    """Examples per forward pass of one worker."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps during which the learning rate rises; it then falls to 0 on a cosine."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the LoRA matrices."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to at most this norm."""
    lora: LoraConfig = LoraConfig()
    """Settings of the LoRA matrices."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: much less memory, a third more work."""
    compile: bool = False
    """Compile the layers with torch.compile, which takes minutes at the start."""
    attention: Literal["auto", "blocked", "sdpa", "varlen"] = "auto"
    """How attention is computed: auto picks the fastest; blocked is for CPUs, varlen is torch's
    flash attention over packed rows on GPUs, sdpa works everywhere."""
    max_seq_len: int = Field(default=2048, ge=64)
    """Maximum tokens per example; the oldest purchases are dropped first, the output is never
    cut."""
    num_workers: int = Field(default=1, ge=1)
    """Number of Ray Train workers, which share every global batch."""
    min_workers: int | None = Field(default=None, ge=1)
    """Minimum number of workers to continue with when nodes are lost; more join when they return.
    Unset: wait for all num_workers."""
    use_gpu: bool | None = None
    """Train on GPUs. Unset: if the cluster has one, or may get one and the model has more than a
    billion parameters."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How workers share the model: ddp holds all of it on each; fsdp spreads the frozen weights
    over the workers' devices, though each first reads all of them into its node's memory."""
    load_in_4bit: bool = False
    """Keep the frozen weights in 4 bits while training (QLoRA, needs bitsandbytes); the merged
    model is written in full precision."""
    checkpoint_every_steps: int = Field(default=200, ge=1)
    """Optimizer steps between checkpoints."""
    validate_every_steps: int = Field(default=0, ge=0)
    """Optimizer steps between validation losses; 0 never validates, as in the paper."""
    validation_examples: int = Field(default=256, ge=0)
    """Number of validation examples for that loss, the first of the split, without reasoning; 0
    takes all."""
    keep: Literal["last", "best"] = "last"
    """Checkpoint that becomes the model: the last, or the best by validation loss."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many validations in a row without a lower loss; 0 never stops early."""
    log_every_steps: int = Field(default=10, ge=1)
    """Optimizer steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard event files, into the folder tensorboard."""
    max_failures: int = Field(default=2, ge=0)
    """How often lost workers are replaced before the run fails."""
    export_merged: bool = True
    """Also write the base model and the adapter merged into one model."""
    seed: int = Field(default=0, ge=0)
    """Seed for the order of examples, the initial LoRA weights and dropout."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.global_batch_size % self.num_workers:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of "
                f"num_workers ({self.num_workers})"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) must not exceed num_workers ({self.num_workers})"
            )
        if self.validate_every_steps == 0 and (self.keep == "best" or self.patience):
            raise ValueError(
                f"keep={self.keep} and patience={self.patience} need validate_every_steps, which "
                "is 0"
            )
        if self.load_in_4bit and self.strategy == "fsdp":
            raise ValueError("load_in_4bit=true needs strategy=ddp; fsdp can't split 4-bit weights")
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so there is no loss")
        return self
