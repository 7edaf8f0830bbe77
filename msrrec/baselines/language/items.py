"""Item vectors among the tokens of a prompt, through a projector (LLaRA, Liao et al. 2024).

An item appears in a prompt as a number from ``ITEMS_FROM`` on. In text prompts the model reads it
as a placeholder token; in hybrid prompts the item's projected vector replaces that token's
embedding. So such a prompt is a row of integers, which packing, training and generation accept
unchanged, and the vocabulary is not resized.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msrrec.training.examples import ExampleSet
from msrrec.training.learner import Learner, StepResult
from msrrec.training.model import add_lora
from msrrec.training.schedule import Batch
from msrrec.training.worker import TrainingJob

ITEMS_FROM = 1 << 24
"""First number that stands for an item; it is beyond any vocabulary."""
PROJECTOR = "projector"


class HybridEmbedding(nn.Module):
    """An embedding layer for tokens and items.

    Shapes: V = items, D = size of their vectors, E = the model's hidden size.

    Args:
        tokens: The model's own embedding, frozen.
        items_VD: Frozen vectors.
        placeholder: Token id that stands for every item in text prompts.
    """

    def __init__(self, tokens: nn.Embedding, items_VD: torch.Tensor, placeholder: int) -> None:
        super().__init__()
        self.tokens, self.placeholder, self.is_hybrid = tokens, placeholder, True
        self.register_buffer("items", items_VD, persistent=False)
        size = tokens.embedding_dim
        self.projector = nn.Sequential(
            nn.Linear(items_VD.shape[1], size), nn.GELU(), nn.Linear(size, size)
        )

    @property
    def weight(self) -> torch.Tensor:
        """The weight of the token embedding, for a tied vocabulary projection."""
        return self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings, (..., E)."""
        is_item = ids >= ITEMS_FROM
        embedded: torch.Tensor = self.tokens(ids.masked_fill(is_item, self.placeholder))
        if not self.is_hybrid:
            return embedded
        assert isinstance(self.items, torch.Tensor)
        projected = self.projector(self.items[ids[is_item] - ITEMS_FROM])
        return embedded.masked_scatter(is_item[..., None], projected.to(embedded.dtype))


def insert_items(base: Any, items: NDArray[np.float32], placeholder: int, seed: int) -> None:
    """Give a transformers model an embedding for items; the projector is drawn from the seed."""
    torch.manual_seed(seed)
    tokens = base.get_input_embeddings()
    base.set_input_embeddings(HybridEmbedding(tokens, torch.tensor(items), placeholder))


@dataclass(frozen=True)
class ItemTrainingJob(TrainingJob):
    """Training of a model that reads item vectors.

    Attributes:
        items: Item vectors, (V, D).
        placeholder: Token id of the placeholder.
        total_steps: Number of steps of the whole training, for the curriculum.
        curriculum: Whether prompts change from text to hybrid during training; else all are hybrid.
        weight_decay: Weight decay of the projector.
    """

    items: NDArray[np.float32]
    placeholder: int
    total_steps: int
    curriculum: bool
    weight_decay: float

    def load_base(self, *, on_gpu: bool) -> Any:
        """The frozen model with an untrained projector."""
        base = super().load_base(on_gpu=on_gpu)
        insert_items(base, self.items, self.placeholder, self.config.seed)
        return base

    def add_lora(self, base: Any) -> Any:
        """LoRA matrices, and the projector trained in full."""
        return add_lora(base, self.config, (PROJECTOR,))

    def identity(self) -> list[Any]:
        """The item vectors and the settings of their training."""
        items = hashlib.sha256(np.ascontiguousarray(self.items).data).hexdigest()
        return [items, self.placeholder, self.total_steps, self.curriculum, self.weight_decay]

    def make_learner(self, model: Any, **place: Any) -> Learner:
        """A learner that follows the curriculum."""
        return ItemLearner(model, self, **place)


class ItemLearner(Learner):
    """Training steps with hybrid prompts, or with text prompts that do not train the projector."""

    def __init__(self, model: Any, job: ItemTrainingJob, **place: Any) -> None:
        super().__init__(model, job.config, **place)
        self.job = job
        self.embedding = model.get_base_model().get_input_embeddings()
        self.projector = [p for p in self.embedding.projector.parameters() if p.requires_grad]
        own = set(map(id, self.projector))
        self.matrices = [p for p in self.weights if id(p) not in own]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.matrices, "weight_decay": self.config.weight_decay},
                {"params": self.projector, "weight_decay": job.weight_decay},
            ],
            lr=self.config.learning_rate,
        )

    def step(
        self, step: int, examples: ExampleSet, batch: Batch, learning_rate: float
    ) -> StepResult:
        """One step; the kind of the prompts is the same on all workers. See ``Learner.step``."""
        job = self.job
        is_hybrid = not job.curriculum or draws_hybrid(step, job.total_steps, self.config.seed)
        self.embedding.is_hybrid = is_hybrid
        self.weights = [*self.matrices, *(self.projector if is_hybrid else ())]
        for weight in self.projector:
            weight.grad = None  # without a gradient AdamW changes neither weight nor momentum
        return super().step(step, examples, batch, learning_rate)


def draws_hybrid(step: int, total_steps: int, seed: int) -> bool:
    """Whether a 0-based step has hybrid prompts, with probability (step + 1) / total steps."""
    return bool(np.random.default_rng((seed, step)).random() < (step + 1) / total_steps)
