"""Text similarity by sentence embeddings: prefers candidates with titles like the history's."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, ModelError, first_line
from msrrec.model_cache import fetch
from msrrec.models import local_folder
from msrrec.schema import Example
from msrrec.titles import clean_title
from msrrec.weights import check_place

BATCH = 256
"""Number of titles encoded at once."""

Pooling = Literal["last", "mean", "max"]
"""What a candidate is scored by: its cosine with the last title of the history, the mean of the
cosines with all titles, or the largest of them, so that one similar purchase is enough."""


class Embedding:
    """Scores are cosines between the vectors of titles."""

    def __init__(self, config: RunConfig, uses: Pooling) -> None:
        """Use the last title of the history, or the mean or maximum over all titles.

        Raises:
            ConfigError: If ``baselines.embedding_model`` is not set.
        """
        if config.baselines.embedding_model is None:
            raise ConfigError(
                "baselines.embedding_model is not set; expected minilm, or the folder or hub name "
                "of a sentence-embedding model, or leave out the embedding systems"
            )
        self._model, self._uses = config.baselines.embedding_model, uses
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def fit(self, dataset: Dataset, folder: str) -> Facts:
        """Encode the titles of the catalogue.

        Raises:
            ModelError: If the model can't be loaded.
        """
        del folder
        titles = [clean_title(item.title) for item in dataset.items.values()]
        vectors = encode(self._model, titles)
        self._vectors = dict(zip(dataset.items, vectors, strict=True))
        return {"model": self._model, "size": int(vectors.shape[1])}

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """The cosine of each candidate with the titles, pooled over the history."""
        return [self._score(example) for example in examples]

    def _score(self, example: Example) -> list[float]:
        titles = example.history[-1:] if self._uses == "last" else example.history
        history = np.stack([self._vectors[item_id] for item_id in titles])
        candidates = np.stack([self._vectors[item_id] for item_id in example.candidates])
        cosines = candidates @ history.T
        pooled = cosines.max(axis=1) if self._uses == "max" else cosines.mean(axis=1)
        return [float(value) for value in pooled]


def encode(model_name: str, titles: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of length 1: the mean over a title's tokens in the model's last layer.

    Args:
        model_name: ``minilm``, a folder or a hub name.
        titles: Texts, each cut to 128 tokens.

    Returns:
        Shape (number of titles, size of the model).

    Raises:
        ModelError: If the model can't be loaded.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer  # seconds to import

    named = str(local_folder(model_name) or model_name)
    check_place(named)
    place = fetch(named)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        # float32 whatever the stored type, as few CPUs multiply in bfloat16
        model: Any = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
        model = model.get_encoder() if model.config.is_encoder_decoder else model
    except (OSError, ValueError) as error:
        raise ModelError(
            f"baselines.embedding_model={model_name}: can't be loaded ({first_line(error)}"
            "); expected a folder or hub name of a transformers model"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
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
