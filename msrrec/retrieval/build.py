"""Building an index from a prepared dataset."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from msrrec.config import RetrievalConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leave_one_out import training_ends
from msrrec.errors import ConfigError, DataError
from msrrec.fingerprint import hash_parts
from msrrec.retrieval.catalogue import Catalogue
from msrrec.retrieval.counts import (
    PurchaseCodes,
    count_together,
    count_transitions,
    keep_neighbours,
    shrink_cosine,
)
from msrrec.retrieval.index import Index
from msrrec.retrieval.retrievers import Embedding, ItemToItem, Popularity, Retriever, Words
from msrrec.retrieval.tuning import choose_weights
from msrrec.retrieval.vectors import EMBEDDING_SETTING, TextEncoder
from msrrec.retrieval.words import WordTable
from msrrec.schema import Item

logger = logging.getLogger(__name__)


def build_index(
    dataset: Dataset,
    settings: RetrievalConfig,
    extra: Sequence[Item] = (),
    sasrec: str | None = None,
) -> Index:
    """An index over a dataset's catalogue and extra items.

    Unset weights are chosen on validation with an index of the training purchases alone, whatever
    the index is to learn from.

    Args:
        dataset: A prepared dataset with its users' events.
        settings: The section ``retrieval`` of the settings.
        extra: Further items; one whose id the dataset has gives it another text.
        sasrec: Folder of a SASRec trained on the dataset; None: no such retriever.

    Raises:
        ConfigError: If a weight is set of a retriever that the index will lack.
        DataError: If the dataset lacks the users' events, an item has no title, or SASRec was
            trained on another dataset.
        ModelError: If the embedding model can't be loaded.
    """
    check_weights(settings, has_sasrec=sasrec is not None)
    bought = read_purchases(dataset)
    training = bought.cut(training_ends(bought.starts[1:]))
    catalogue = Catalogue.build(dataset.items.values())
    others = _read_texts(catalogue, settings)
    if sasrec is not None:
        others = (*others, _read_sasrec(sasrec, dataset))
    index = _assemble(dataset, settings, catalogue, training, others)
    chosen = choose_weights(index, bought, settings)
    if settings.purchases == "all":
        index = _assemble(dataset, settings, catalogue, bought, others)
    built = [dataset.fingerprint, settings.model_dump_json(), str(sorted(chosen.items()))]
    index = index.choose(chosen, hash_parts(built))
    return index.add(extra)


def check_weights(settings: RetrievalConfig, *, has_sasrec: bool) -> None:
    """Refuse a weight above 0 of a retriever that the index will lack.

    Raises:
        ConfigError: If there is one.
    """
    needs = {
        "embedding": (settings.embedding_model, "retrieval.embedding_model"),
        "sasrec": (has_sasrec, "--sasrec"),
        "repeats": (settings.repeats, "retrieval.repeats=true"),
    }
    for name, (is_there, what) in needs.items():
        weight = getattr(settings.weights, name)
        if weight and not is_there:
            raise ConfigError(
                f"retrieval.weights.{name}={weight:g}: the index has no such retriever without "
                f"{what}; give that, or leave the weight out"
            )


def read_purchases(dataset: Dataset) -> PurchaseCodes:
    """All events of all users, in codes that count the dataset's items.

    Raises:
        DataError: If the dataset lacks the events, or they name an item that it lacks.
    """
    codes = {item_id: code for code, item_id in enumerate(dataset.items)}

    def iter_codes() -> Iterable[list[int]]:
        for user_id, items in dataset.iter_events():
            try:
                yield [codes[item_id] for item_id in items]
            except KeyError as error:
                raise DataError(
                    f"{dataset.path}: user {user_id!r} bought item {error.args[0]!r}, which "
                    "items.parquet lacks; run `msrrec prepare` again"
                ) from error

    return PurchaseCodes.collect(iter_codes(), len(codes))


def _read_texts(catalogue: Catalogue, settings: RetrievalConfig) -> tuple[Retriever, ...]:
    """The retrievers that read texts alone."""
    words = Words(WordTable.build(catalogue.items))
    if settings.embedding_model is None:
        return (words,)
    encoder = TextEncoder(settings.embedding_model, EMBEDDING_SETTING)
    logger.info("index: embeds %s titles", f"{len(catalogue):,}")
    vectors = encoder.encode([item.title for item in catalogue.items])
    return words, Embedding(vectors, encoder)


def _read_sasrec(folder: str, dataset: Dataset) -> Retriever:
    from msrrec.retrieval.sequential.saved import read_sasrec  # torch, seconds to import

    found = read_sasrec(folder)
    if found.facts.dataset != dataset.fingerprint or found.facts.item_ids != tuple(dataset.items):
        raise DataError(
            f"{folder}: SASRec was trained on dataset {found.facts.dataset[:12]}; expected "
            f"{dataset.path} ({dataset.fingerprint[:12]}), so run `msrrec evaluate --model sasrec` "
            "on it"
        )
    return found


def _assemble(
    dataset: Dataset,
    settings: RetrievalConfig,
    catalogue: Catalogue,
    purchases: PurchaseCodes,
    others: Sequence[Retriever],
) -> Index:
    """An index that learned from some purchases; its version is not set yet."""
    together = count_together(purchases)
    buyers = together.diagonal().astype(np.float32)
    similar = keep_neighbours(shrink_cosine(together, settings.shrinkage), settings.neighbours)
    after = keep_neighbours(count_transitions(purchases, settings.window), settings.neighbours)
    counted: tuple[Retriever, ...] = (
        ItemToItem("transitions", after.astype(np.float32)),
        ItemToItem("copurchase", similar.astype(np.float32)),
        Popularity(buyers),
    )
    retrievers = (*counted, *others)
    return Index(dataset.fingerprint, "", settings, {}, catalogue, retrievers, buyers)
