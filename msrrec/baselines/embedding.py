"""Text similarity by sentence embeddings: prefers candidates with titles like the history's."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msrrec.baselines.interface import Facts
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.retrieval.vectors import TextEncoder
from msrrec.schema import Example
from msrrec.titles import clean_title

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
    return TextEncoder(model_name, "baselines.embedding_model").encode(titles)
