"""One optimizer step: forward and backward over packed micro-batches, summed over workers.

Gradients are summed, not averaged, and the loss is divided by the number of examples of the whole
batch. So a step is the same for any micro-batch size, any number of workers, and a smaller last
batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.nn.functional import cross_entropy

from msrrec.config import TrainConfig
from msrrec.errors import ModelError
from msrrec.training.attention import fastest_kernel, use_packed_attention
from msrrec.training.examples import ExampleSet
from msrrec.training.fast import head_weight, use_fast_layers
from msrrec.training.head import head_loss, token_losses
from msrrec.training.loss import NOT_SUPERVISED, packed_loss
from msrrec.training.packing import COARSE, EXACT, Packed, Pair, pack
from msrrec.training.schedule import Batch, share_of_worker
from msrrec.training.shard import shard_layers


@dataclass(frozen=True)
class StepResult:
    """Losses and counts of one step, over all workers.

    Attributes:
        loss: Eq. 2, mean over the units.
        loss_rea: Mean over the examples with reasoning; None if there are none.
        loss_rec: Mean over the units.
        num_examples: Number of units in the global batch.
        num_tokens: Number of tokens in the global batch, prompts included.
    """

    loss: float
    loss_rea: float | None
    loss_rec: float
    num_examples: int
    num_tokens: int


class Learner:
    """The model, its optimizer, and this worker's rank.

    Args:
        model: A PEFT model.
        config: Settings of the training run.
        bfloat16: Whether matrix products run in bfloat16.
        device: Device to train on; None for the model's own.
        rank: 0-based rank of this worker.
        world_size: Number of workers; more than one needs torch's process group.
    """

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        *,
        bfloat16: bool,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.model, self.config, self.bfloat16 = model, config, bfloat16
        self.rank, self.world_size = rank, world_size
        self.device = device or next(model.parameters()).device
        self.is_sharded = config.strategy == "fsdp" and world_size > 1
        self._prepare(model.get_base_model())
        self.sizes = COARSE if self.packs and self.device.type == "cpu" else EXACT
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def _prepare(self, base: Any) -> None:
        """Choose the fastest computation that this model allows: packed rows and fast layers."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        dtype = torch.bfloat16 if self.bfloat16 else base.get_output_embeddings().weight.dtype
        kernel = self.config.attention
        kernel = fastest_kernel(self.device, dtype) if kernel == "auto" else kernel
        self.packs = use_packed_attention(base, kernel)
        is_fast = self.packs and use_fast_layers(base, kernel, dtype)
        if self.config.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        if self.config.compile:
            for module in base.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.compile(dynamic=True)
        if self.is_sharded:
            shard_layers(base, self.device, self.world_size)
        self.model.to(self.device)
        self.head = head_weight(base, dtype) if is_fast else None

    def step(
        self, step: int, examples: ExampleSet, batch: Batch, learning_rate: float
    ) -> StepResult:
        """Update the LoRA matrices by one global batch.

        Args:
            step: 0-based number of the step; it seeds dropout, so a resumed run is reproducible.
            examples: All training examples.
            batch: Indices of the global batch's units, the same on every worker.
            learning_rate: Learning rate of this step.

        Raises:
            ModelError: If the loss is not finite.
        """
        torch.manual_seed(hash((self.config.seed, step, self.rank)) & 0x7FFFFFFF)
        result = self.sum_gradients(examples, batch)
        if not torch.isfinite(torch.tensor(result.loss)):
            raise ModelError(
                f"step {step}: the loss is {result.loss}; expected a finite one; lower "
                f"train.learning_rate ({self.config.learning_rate})"
            )
        torch.nn.utils.clip_grad_norm_(self.weights, self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return result

    def sum_gradients(self, examples: ExampleSet, batch: Batch) -> StepResult:
        """Compute the gradient of a global batch's mean loss and leave it in the weights.

        The mean is over units: what is learned beside an example adds to the example's loss.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=False)
        sums_3 = torch.zeros(3, device=self.device)  # examples with reasoning, loss_rea, loss_rec
        every = examples.examples_of(batch)
        for packed in self.micro_batches(examples, every):
            sums_3 += self._backward(packed, len(batch))
        self._sum_over_workers(sums_3)
        return self._result(sums_3, len(batch), int(examples.lengths[every].sum()))

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The gradient of each trained matrix, zeros where this worker had nothing to learn."""
        return [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]

    @torch.no_grad()
    def mean_loss(self, examples: ExampleSet) -> float:
        """Eq. 2, the mean over examples without learning from them; the same on every worker."""
        self.model.eval()
        total = torch.zeros(1, device=self.device)
        for packed in self.micro_batches(examples, np.arange(len(examples))):
            total += self._losses(packed)[0]
        if self.world_size > 1:
            distributed.all_reduce(total)
        return float(total) / len(examples)

    @torch.no_grad()
    def token_logprobs(self, pair: Pair) -> list[float]:
        """Natural log-probabilities of one example's supervised tokens, in their order."""
        self.model.eval()
        packed = pack([pair], self.device, self.sizes)
        if self.head is None:
            losses_S = cross_entropy(self._logits(packed).float(), packed.targets, reduction="none")
        else:
            losses_S = token_losses(self._hidden(packed, self.head), self.head, packed.targets)
        return (-losses_S[: int((pair[1] != NOT_SUPERVISED).sum())]).tolist()

    def micro_batches(self, examples: ExampleSet, batch: Batch) -> Iterator[Packed]:
        """This worker's packed micro-batches of a global batch's examples.

        With FSDP all workers must run every layer together, so workers with fewer micro-batches add
        an example with weight zero.
        """
        mine = share_of_worker(batch, examples.lengths, self.rank, self.world_size)
        size = self.config.micro_batch_size if self.packs else 1
        for start in range(0, len(mine), size):
            some = [examples[i] for i in mine[start : start + size]]
            yield pack(some, self.device, self.sizes)
        if self.is_sharded:
            most = math.ceil(math.ceil(len(batch) / self.world_size) / size)
            shortest = batch[np.argmin(examples.lengths[batch])]
            idle = pack([examples[shortest]], self.device, self.sizes)
            for _ in range(most - math.ceil(len(mine) / size)):
                yield replace(idle, shares=torch.zeros_like(idle.shares))

    def _losses(self, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        return self._loss(packed) if self.head is None else self._fast_loss(packed, self.head)

    def _backward(self, packed: Packed, num_units: int) -> torch.Tensor:
        loss, spans_2 = self._losses(packed)
        (loss / num_units).backward()  # type: ignore[no-untyped-call]
        return torch.cat([packed.shares[0].sum()[None], spans_2])

    def _fast_loss(
        self, packed: Packed, head_VE: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss through the fast layers and the fused head, for models that they fit."""
        hidden_SE = self._hidden(packed, head_VE)
        alpha, beta = self.config.alpha, self.config.beta
        return head_loss(hidden_SE, head_VE, packed.targets, packed.shares, alpha, beta)

    def _hidden(self, packed: Packed, head_VE: torch.Tensor) -> torch.Tensor:
        """Hidden states that predict supervised tokens, (S, E)."""
        outputs = self.model.get_base_model().get_decoder()(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            lengths=packed.lengths,
            starts=packed.starts,
            tails=packed.tails,
        )
        hidden: torch.Tensor = outputs.last_hidden_state[0, packed.rows_of_tails]
        return hidden.to(head_VE.dtype)

    def _loss(self, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss through the model's own layers."""
        alpha, beta = self.config.alpha, self.config.beta
        return packed_loss(self._logits(packed), packed.targets, packed.shares, alpha, beta)

    def _logits(self, packed: Packed) -> torch.Tensor:
        """Logits at the positions that predict supervised tokens, (S, V)."""
        lengths = {"sequence_lengths": packed.lengths} if self.packs else {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = self.model.get_base_model()(
                input_ids=packed.input_ids,
                position_ids=packed.position_ids,
                logits_to_keep=packed.rows,
                **lengths,
            )
        logits: torch.Tensor = outputs.logits[0]
        return logits

    def _sum_over_workers(self, sums: torch.Tensor) -> None:
        """Add up gradients and sums over all workers, in one message."""
        if self.world_size == 1:
            return
        gradients = self.gradients
        flat = torch.cat([sums, *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(flat)
        parts = flat.split_with_sizes([len(sums), *(gradient.numel() for gradient in gradients)])
        sums.copy_(parts[0])
        for weight, part in zip(self.weights, parts[1:], strict=True):
            weight.grad = part.view_as(weight)

    def _result(self, sums_3: torch.Tensor, count: int, num_tokens: int) -> StepResult:
        with_reasoning, rea, rec = sums_3.tolist()
        num_reasoning = round(with_reasoning)
        return StepResult(
            loss=(self.config.alpha * rea + self.config.beta * rec) / count,
            loss_rea=rea / num_reasoning if num_reasoning else None,
            loss_rec=rec / count,
            num_examples=count,
            num_tokens=num_tokens,
        )
