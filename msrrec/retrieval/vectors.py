"""Titles as vectors of a sentence-embedding model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrrec.errors import ModelError, first_line
from msrrec.model_cache import fetch
from msrrec.models import local_folder
from msrrec.weights import check_place

BATCH = 256
"""Number of titles encoded at once."""
EMBEDDING_SETTING = "retrieval.embedding_model"
"""The setting that names the model of an index."""


@dataclass(frozen=True)
class TextEncoder:
    """A sentence-embedding model, loaded when first used and then kept.

    Attributes:
        model: ``minilm``, a folder or a hub name.
        setting: Name of the setting that names it, for messages.
    """

    model: str
    setting: str

    def encode(self, titles: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1: the mean over a title's tokens in the model's last layer.

        Args:
            titles: Texts, at least one, each cut to 128 tokens.

        Returns:
            Shape (number of titles, size of the model).

        Raises:
            ModelError: If the model can't be loaded.
        """
        import torch  # seconds to import

        tokenizer, model = self._loaded
        found = []
        for begin in range(0, len(titles), BATCH):
            batch = tokenizer(
                list(titles[begin : begin + BATCH]),
                padding=True,
                truncation=True,
                max_length=128,
                padding_side="right",
                return_tensors="pt",
            )
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                states_BTD = model(**inputs).last_hidden_state.float()
            mask_BT1 = inputs["attention_mask"][:, :, None]
            means = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
            found.append(torch.nn.functional.normalize(means, dim=1).numpy())
        return np.concatenate(found)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        import torch
        from transformers import AutoModel, AutoTokenizer  # seconds to import

        named = str(local_folder(self.model) or self.model)
        check_place(named)
        place = fetch(named)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place)
            # float32 whatever the stored type, as few CPUs multiply in bfloat16
            model: Any = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
            model = model.get_encoder() if model.config.is_encoder_decoder else model
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.setting}={self.model}: can't be loaded ({first_line(error)}); expected a "
                "folder or hub name of a transformers model"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer, model

    def __getstate__(self) -> dict[str, str]:
        """What another process needs; it loads the model itself."""
        return {"model": self.model, "setting": self.setting}
