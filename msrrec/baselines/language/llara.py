"""LLaRA (Liao et al. 2024): each title is followed by the vector that SASRec learned for it.

Titles of history and candidates are each followed by a placeholder, which a hybrid prompt replaces
by the item's projected vector (``items``). Training changes from text prompts to hybrid ones. With
``prompts="text"`` no vectors are used, with ``"hybrid"`` there is no curriculum.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msrrec import storage
from msrrec.baselines.interface import Facts
from msrrec.baselines.language.items import ITEMS_FROM, ItemTrainingJob
from msrrec.baselines.language.tuning import TitleTuned, encode_beginning
from msrrec.config import PromptConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.models import ModelSource
from msrrec.reasoning.encoding import encode_text, shorten
from msrrec.schema import Example
from msrrec.training.schedule import num_steps
from msrrec.training.worker import TrainingJob

Prompts = Literal["curriculum", "text", "hybrid"]

TEMPLATES = (
    "This user has bought, oldest first:{history}\nPredict the next item that this user will buy. "
    "Choose the answer from the following {count} titles:{candidates}\nAnswer:",
    "The purchase history of this user, oldest first:{history}\nRecommend the next item to buy. "
    "Choose it from these {count} titles:{candidates}\nAnswer:",
    "The user bought the following items in this order:{history}\nWhich item will the user buy "
    "next? Choose one of the following {count} titles:{candidates}\nAnswer:",
)
"""One of them is drawn for every example."""
TEMPLATES_CANDIDATES_FIRST = (
    "Choose the answer from the following {count} titles:{candidates}\nThis user has bought, "
    "oldest first:{history}\nPredict the next item that this user will buy.\nAnswer:",
    "Choose one of these {count} titles:{candidates}\nThe purchase history of this user, oldest "
    "first:{history}\nRecommend the next item to buy.\nAnswer:",
    "Choose one of the following {count} titles:{candidates}\nThe user bought the following items "
    "in this order:{history}\nWhich item will the user buy next?\nAnswer:",
)
"""The same with the lists the other way round."""
SHORT = ("Bought, oldest first:{history}\nCandidates:{candidates}\nNext:",)
SHORT_CANDIDATES_FIRST = ("Candidates:{candidates}\nBought, oldest first:{history}\nNext:",)
_PLACEHOLDER = "*"

Marked = tuple[str, int]
"""A title's line, and the token or item that follows it in the prompt."""


class Llara(TitleTuned):
    """The LLaRA baseline.

    Attributes:
        places: Where each item stands in the dataset's list, 0-based; empty before ``fit``.
    """

    section = "llara"

    def __init__(self, config: RunConfig, prompts: Prompts = "curriculum") -> None:
        super().__init__(config)
        self._prompts = prompts
        self.places: dict[str, int] = {}
        self._sasrec: Facts = {}

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Train SASRec, then LoRA and projector, all on the training split.

        Raises:
            MsrRecError: The errors of ``Tuned.fit`` and of SASRec's ``fit``.
        """
        self.places = {item_id: n for n, item_id in enumerate(dataset.items)}
        facts = super().fit(dataset, folder)
        return {**facts, "prompts": self._prompts, **self._sasrec}

    def make_job(self, source: ModelSource, num_examples: int, folder: str) -> TrainingJob:
        """The plain model for text prompts only, else one that reads SASRec's item vectors."""
        if self._prompts == "text":
            return super().make_job(source, num_examples, folder)
        from msrrec.baselines.sequential.sasrec import SasRec

        assert self.dataset is not None
        sasrec = SasRec(self.config)
        self._sasrec = {"sasrec": sasrec.fit(self.dataset, storage.join(folder, "sasrec"))["best"]}
        return ItemTrainingJob(
            source,
            self.config.model.dtype,
            self.training,
            items=scale(sasrec.item_vectors().numpy()),
            placeholder=find_placeholder(self.tokenizer),
            total_steps=num_steps(num_examples, self.training),
            curriculum=self._prompts == "curriculum",
            weight_decay=self.config.llara.projector_weight_decay,
        )

    def render_answer(self, title: str, index: int) -> str:
        """The answer, after a space as in the lists."""
        return f" {self.number(index)}{title}"

    def prompt(self, example: Example, room: int) -> tuple[list[int], int]:
        """Token ids and items within a limit, and how many of the oldest titles were left out."""
        query = self.query(example)
        history = self._marked((f"\n- {title}" for title in query.history), example.history)
        lines = (f"\n{self.number(n) or '- '}{title}" for n, title in enumerate(query.candidates))
        candidates = self._marked(lines, example.candidates)
        templates = choose_templates(self.form)
        template = templates[zlib.crc32(example.example_id.encode()) % len(templates)]
        return shorten(
            lambda dropped: encode_lists(self.tokenizer, template, history[dropped:], candidates),
            query,
            room,
        )

    def _marked(self, lines: Iterable[str], item_ids: Sequence[str]) -> list[Marked]:
        placeholder, is_text = find_placeholder(self.tokenizer), self._prompts == "text"
        return [
            (line, placeholder if is_text else ITEMS_FROM + self.places[item_id])
            for line, item_id in zip(lines, item_ids, strict=True)
        ]


def scale(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors scaled to a mean square of 1, as SASRec's are too small to train a projector fast."""
    root = float(np.sqrt(np.mean(vectors**2)))
    return (vectors / max(root, 1e-12)).astype(np.float32)


def choose_templates(form: PromptConfig) -> tuple[str, ...]:
    """The prompts of a form, one of which is drawn for every example."""
    if form.instruction == "short":
        return SHORT_CANDIDATES_FIRST if form.order == "candidates_first" else SHORT
    return TEMPLATES_CANDIDATES_FIRST if form.order == "candidates_first" else TEMPLATES


def encode_lists(
    tokenizer: Any, template: str, history: Sequence[Marked], candidates: Sequence[Marked]
) -> list[int]:
    """A prompt as token ids: one title per line, each followed by its own token or item."""
    lists = {"history": history, "candidates": candidates}
    text = template.replace("{count}", str(len(candidates)))
    ids = encode_beginning(tokenizer)
    for n, part in enumerate(re.split(r"\{(history|candidates)\}", text)):
        if n % 2 == 0:
            ids += encode_text(tokenizer, part)
            continue
        for line, number in lists[part]:
            ids += [*encode_text(tokenizer, line), number]
    return ids


def find_placeholder(tokenizer: Any) -> int:
    """The token that stands for any item's vector in text prompts."""
    return encode_text(tokenizer, _PLACEHOLDER)[-1]
