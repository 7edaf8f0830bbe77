"""A trained SASRec as files, and as a retriever.

The files are ``sasrec.safetensors`` (weights) and ``sasrec.json`` (what it was trained on).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from msrrec import storage
from msrrec.config import RetrieverName
from msrrec.errors import DataError
from msrrec.retrieval.catalogue import Catalogue
from msrrec.retrieval.folder import SASREC_FILES, check_sasrec
from msrrec.retrieval.histories import Histories
from msrrec.retrieval.ranking import IntArray
from msrrec.retrieval.retrievers import RankingSpec, rank_dense
from msrrec.retrieval.sequential.network import encode_histories
from msrrec.retrieval.sequential.sasrec import SasRecNetwork


class SasRecFacts(BaseModel):
    """What a SASRec was trained on.

    Attributes:
        dataset: Fingerprint of the dataset.
        item_ids: The items in the order of its vectors.
        length: Number of latest purchases that it sees.
        size: Size of an item's vector.
    """

    dataset: str
    item_ids: tuple[str, ...]
    length: int
    size: int


@dataclass(frozen=True)
class _Shape:
    size: int
    dropout: float = 0.0


@dataclass(frozen=True)
class SasRecRetriever:
    """Finds what SASRec expects next: the item vectors nearest the state of the history.

    The items are those of the dataset; one that was added later has no vector and is not found.
    """

    facts: SasRecFacts
    network: SasRecNetwork
    name: RetrieverName = "sasrec"

    def rank(self, histories: Histories, spec: RankingSpec) -> list[IntArray]:
        """The items by the product of their vector with the state of the history."""
        num_known, num_items = len(self.facts.item_ids), len(spec.order)
        codes = [row[row < num_known] + 1 for row in histories.sequences]
        says_something = np.array([len(row) > 0 for row in codes], dtype=bool)
        rows = [row[-self.facts.length :].tolist() or [0] for row in codes]
        states_BD = encode_histories(self.network, rows, [0] * len(rows), self.facts.length)
        with torch.inference_mode():
            products = (states_BD @ self.network.table.T).numpy()
        scores = np.zeros((len(rows), num_items), dtype=np.float32)
        scores[:, :num_known] = products
        return rank_dense(scores, np.arange(num_items) < num_known, says_something, spec)

    def follow(self, catalogue: Catalogue, codes: IntArray) -> "SasRecRetriever":
        """Itself, as a new item has no vector."""
        del catalogue, codes
        return self

    def files(self) -> dict[str, bytes]:
        """The two files by name."""
        tensors = self.network.state_dict().items()
        state = {name: value.detach().cpu().contiguous() for name, value in tensors}
        facts = self.facts.model_dump_json().encode()
        return dict(zip(SASREC_FILES, (save(state), facts), strict=True))


def save_sasrec(retriever: SasRecRetriever, folder: str) -> None:
    """Write the files of a trained SASRec into a folder, the weights first."""
    for name, content in retriever.files().items():
        storage.write_bytes(storage.join(folder, name), content)


def read_sasrec(folder: str) -> SasRecRetriever:
    """The trained SASRec in a folder, local or a URI.

    Raises:
        DataError: If there is none, or its files are damaged.
    """
    check_sasrec(folder)
    return parse_sasrec(
        folder, *(storage.read_bytes(storage.join(folder, n)) for n in SASREC_FILES)
    )


def parse_sasrec(where: str, weights: bytes, facts: bytes) -> SasRecRetriever:
    """A trained SASRec from the contents of its two files.

    Raises:
        DataError: If they are damaged or don't belong together; names ``where``.
    """
    try:
        found = SasRecFacts.model_validate_json(facts)
        network = SasRecNetwork(len(found.item_ids), 0, found.length, _Shape(found.size))
        state: dict[str, Any] = load(weights)
        network.load_state_dict(state)
    except (ValidationError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{where}: the files of SASRec are damaged or don't belong together "
            f"({type(error).__name__}); expected those that `msrrec evaluate --model sasrec` wrote"
        ) from error
    return SasRecRetriever(found, network.eval())
