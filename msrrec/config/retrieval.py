"""Settings of retrieval: how candidates are found in a whole catalogue."""

from typing import ClassVar, Literal, get_args

from pydantic import Field

from msrrec.config.base import Config

RetrieverName = Literal[
    "transitions", "copurchase", "words", "popularity", "embedding", "sasrec", "repeats"
]
"""A way to find items for a history, see docs/retrieval.md."""
RETRIEVERS: tuple[RetrieverName, ...] = get_args(RetrieverName)


class WeightsConfig(Config):
    """Weights of the retrievers in their union; 0 leaves one out. Unset: chosen on validation."""

    transitions: float | None = Field(default=None, ge=0)
    """What users bought after the purchases of the history. For this and the other weights: 0
    leaves the retriever out; unset, validation chooses."""
    copurchase: float | None = Field(default=None, ge=0)
    """What the same users bought, as in item-kNN."""
    words: float | None = Field(default=None, ge=0)
    """Items whose title, categories and brand share rare words with the history (BM25)."""
    popularity: float | None = Field(default=None, ge=0)
    """What most users bought."""
    embedding: float | None = Field(default=None, ge=0)
    """Items whose titles mean something alike; needs embedding_model."""
    sasrec: float | None = Field(default=None, ge=0)
    """What a trained SASRec expects next; needs the folder of one."""
    repeats: float | None = Field(default=None, ge=0)
    """What the user bought before; with repeats=true alone."""


class RetrievalConfig(Config):
    """Settings of an index over a catalogue, and of the search in it."""

    folders: ClassVar[frozenset[str]] = frozenset({"embedding_model"})

    purchases: Literal["training", "all"] = "training"
    """Purchases that the index learns from: training keeps the held-out ones out, so that an
    evaluation is honest; all is for a shop that recommends the next purchase."""
    repeats: bool = False
    """Whether what a user bought may be found again: groceries repeat, cameras don't."""
    weights: WeightsConfig = WeightsConfig()
    """Weights of the retrievers in their union."""
    rank_constant: int = Field(default=60, ge=0)
    """Constant of the reciprocal rank fusion: an item at rank r of a retriever gets
    weight / (rank_constant + r)."""
    depth: int = Field(default=200, ge=1)
    """Number of items that each retriever gives to the union."""
    decay: float = Field(default=0.7, gt=0, le=1)
    """Weight of a purchase relative to the one after it, so that the latest count most."""
    neighbours: int = Field(default=200, ge=1)
    """Number of most similar, and of most frequent next, items that are kept for each item."""
    shrinkage: float = Field(default=10.0, ge=0)
    """Term in the denominator of the similarity of two items, against pairs that few users
    bought."""
    window: int = Field(default=10, ge=1)
    """Number of later purchases of the same user that count as following a purchase; the nth counts
    1/n."""
    tuning_users: int = Field(default=2000, ge=0)
    """Validation users on whom unset weights are chosen; 0 takes 1 for each."""
    embedding_model: str | None = None
    """Sentence-embedding model of the retriever embedding: ``minilm`` from a Python package, a
    folder or a Hugging Face hub name. Unset: no such retriever."""
