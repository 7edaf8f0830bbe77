"""Reasoning-enhanced fine-tuning."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from msrrec.config.base import Config
from msrrec.config.lora import LoraConfig


class TrainConfig(Config):
    """Reasoning-enhanced fine-tuning (paper, Eq. 1-2 and implementation details)."""

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
    """Weight of the reasoning loss."""
    beta: float = Field(default=0.3, ge=0)
    """Weight of the recommendation loss."""
    reasoning: bool = True
    """False trains MSR-Rec w/o reason: every example is behaviour-only."""
    sides: tuple[Literal["full", "user", "item"], ...] = ("full",)
    """Chains that each kept path teaches: the paper's full one; user and item are cut from its
    steps, for backbones too small to follow an unseen instruction."""
    behaviour: Literal["pruned", "all"] = "pruned"
    """Which users also train on their purchase alone: those without a kept path, or all."""
    num_epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    global_batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step, over all workers and accumulation steps."""
    micro_batch_size: int = Field(default=4, ge=1)
    """Examples per forward pass of one worker."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with a rising learning rate; it then falls to 0 on a cosine."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the LoRA matrices."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    lora: LoraConfig = LoraConfig()
    """The matrices that are trained."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: much less memory, a third more work."""
    compile: bool = False
    """Compile the layers with torch.compile, which takes minutes at the start."""
    attention: Literal["auto", "blocked", "sdpa", "varlen"] = "auto"
    """What computes attention: auto takes the fastest; blocked is made for processors, varlen is
    torch's flash attention over packed rows on GPUs, sdpa works everywhere."""
    max_seq_len: int = Field(default=2048, ge=64)
    """Longest example in tokens; the oldest history goes first, the output is never cut."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers, among which every global batch is dealt."""
    min_workers: int | None = Field(default=None, ge=1)
    """Go on with as few workers where nodes are lost, and with more when they come back; unset:
    wait for all num_workers."""
    use_gpu: bool | None = None
    """Unset: where the cluster has one."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How workers share the model: with ddp each holds all of it; with fsdp its layers' frozen
    weights are spread over their devices, though each reads all of them into its node's memory
    first."""
    load_in_4bit: bool = False
    """Keep the frozen weights in 4 bits while training (QLoRA), where bitsandbytes is installed;
    the merged model has them whole."""
    checkpoint_every_steps: int = Field(default=200, ge=1)
    """Optimizer steps between checkpoints."""
    validate_every_steps: int = Field(default=0, ge=0)
    """Optimizer steps between losses on validation examples; 0: never, as the paper trains all
    epochs and keeps the last."""
    validation_examples: int = Field(default=256, ge=0)
    """Validation examples whose purchase alone is asked for, the first of the split; 0 takes
    all."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint becomes the model: the last, or the one with the least validation loss."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many validations in a row without a lower loss; 0: never."""
    log_every_steps: int = Field(default=10, ge=1)
    """Optimizer steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write the metrics as event files that TensorBoard shows, into tensorboard/."""
    max_failures: int = Field(default=2, ge=0)
    """Times that lost workers are replaced before the run fails."""
    export_merged: bool = True
    """Also write base and adapter as one model."""
    seed: int = Field(default=0, ge=0)
    """Order of examples, LoRA weights and dropout."""

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
            raise ValueError("load_in_4bit=true needs strategy=ddp, as 4-bit weights can't be cut")
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so there is no loss")
        return self
