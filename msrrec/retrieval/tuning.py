"""Choosing the weights of the retrievers on validation.

Rankings are made once; for other weights only the fusion is done anew. Shapes: P = pairs of a user
and an item that any retriever found, R = retrievers.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msrrec.config import RetrievalConfig, RetrieverName
from msrrec.data.leave_one_out import target_places
from msrrec.retrieval.counts import PurchaseCodes
from msrrec.retrieval.index import Index

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]
VALUES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights that are tried."""
CUTOFFS = (20, 200)
"""The mean of the coverage at these is made as large as possible."""
_MAX_ROUNDS = 3


@dataclass(frozen=True)
class Pairs:
    """The items found for each user.

    Attributes:
        names: The R retrievers.
        shares: Shape (P, R). What each retriever adds to a pair's score, at a weight of 1.
        starts: Where each user's pairs begin; users for whom nothing was found are left out.
        targets: Place of each user's target among the pairs; -1 where no retriever found it.
        num_users: Number of all users.
    """

    names: tuple[RetrieverName, ...]
    shares: NDArray[np.float64]
    starts: IntArray
    targets: IntArray
    num_users: int

    def coverage(self, weights: Mapping[RetrieverName, float]) -> float:
        """The mean over ``CUTOFFS`` of the share of users whose target the union finds.

        Ties count against the target.
        """
        scores = self.shares @ np.array([weights[name] for name in self.names])
        own = np.where(self.targets >= 0, scores[self.targets], np.inf)
        lengths = np.diff([*self.starts, len(scores)])
        as_good = (scores >= np.repeat(own, lengths)) & (scores > 0)
        ranks = np.add.reduceat(as_good, self.starts, dtype=np.int64) if len(self.starts) else own
        is_found = (self.targets >= 0) & (own > 0)
        hits = [np.count_nonzero(is_found & (ranks <= cutoff)) for cutoff in CUTOFFS]
        return sum(hits) / len(hits) / max(self.num_users, 1)


def choose_weights(
    index: Index, bought: PurchaseCodes, settings: RetrievalConfig
) -> dict[RetrieverName, float]:
    """The weights with the best coverage of validation targets; one at a time is changed.

    Weights that the settings give stay as they are. Validation users are spread evenly.

    Args:
        index: An index of the training purchases.
        bought: All events of all users.
        settings: The section ``retrieval`` of the settings.
    """
    weights = dict(index.weights)
    free = [name for name in weights if getattr(settings.weights, name) is None]
    free = [name for name in free if name != "repeats"]
    num_users = min(settings.tuning_users, len(bought.starts) - 1)
    if not num_users or len(weights) < 2 or not free:
        return {}
    users = np.unique(np.linspace(0, len(bought.starts) - 2, num_users).astype(np.int64))
    pairs = rank_validation(index, bought, users)
    begun = best = pairs.coverage(weights)
    for _ in range(_MAX_ROUNDS):
        before = best
        for name in free:
            tried = {v: pairs.coverage({**weights, name: v}) for v in VALUES}
            value = max(tried, key=lambda v: (tried[v], v == weights[name]))
            weights[name], best = value, tried[value]
        if best <= before:
            break
    logger.info("index: weights %s cover %.4f of validation, 1 each %.4f", weights, best, begun)
    largest = max(weights.values()) if len(free) == len(weights) else 1.0
    return {name: weights[name] / (largest or 1.0) for name in free}  # only their ratios count


def rank_validation(index: Index, bought: PurchaseCodes, users: IntArray) -> Pairs:
    """What every retriever finds for validation, whatever its weight."""
    places = target_places(bought.starts[1:], "validation")[users]
    begins = bought.starts[users]
    ids = [item.item_id for item in index.catalogue.items]
    histories = [
        [ids[code] for code in bought.items[begin:end]]
        for begin, end in zip(begins, places, strict=True)
    ]
    found = [f.parts for f in index.rank(histories, 1)]
    return collect_pairs(
        tuple(r.name for r in index.used), found, bought.items[places], index.settings.rank_constant
    )


def collect_pairs(
    names: tuple[RetrieverName, ...],
    found: Sequence[Mapping[RetrieverName, IntArray]],
    targets: IntArray,
    constant: int,
) -> Pairs:
    """The pairs of users and items with what each retriever adds to them.

    Args:
        names: The retrievers.
        found: The rankings of each user.
        targets: The item code of each user's target.
        constant: Constant of the reciprocal rank fusion.
    """
    shares, starts, places, begin = [], [], [], 0
    kept = [any(len(parts[name]) for name in names) for parts in found]
    for parts, target, is_kept in zip(found, targets, kept, strict=True):
        if not is_kept:
            continue
        rankings = [parts[name] for name in names]
        codes, pairs = np.unique(np.concatenate(rankings), return_inverse=True)
        own = np.zeros((len(codes), len(names)))
        columns = np.repeat(np.arange(len(names)), list(map(len, rankings)))
        ranks = np.concatenate([np.arange(1.0, len(codes) + 1) for codes in rankings])
        own[pairs, columns] = 1 / (constant + ranks)
        place = int(np.searchsorted(codes, target))
        is_found = place < len(codes) and codes[place] == target
        places.append(begin + place if is_found else -1)
        shares.append(own)
        starts.append(begin)
        begin += len(codes)
    return Pairs(
        names,
        np.concatenate([*shares, np.zeros((0, len(names)))]),
        np.array(starts, dtype=np.int64),
        np.array(places, dtype=np.int64),
        len(found),
    )
