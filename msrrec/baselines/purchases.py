"""The training events of every user."""

import logging

from msrrec import storage
from msrrec.data.dataset import USERS_FILE, Dataset

logger = logging.getLogger(__name__)

HELD_OUT = 2
"""Events of each user that are targets of validation and test."""


def training_purchases(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Item ids that each user bought in training, oldest first: all events but the held-out ones.

    A dataset that was prepared without all events has those of its examples. A user's training
    examples follow one another in time, each with the events before its target; a user without any
    has the history of the validation example, which is training events alone. A warning says how
    many early events of long histories ``data.train_examples_per_user`` left out there.
    """
    if storage.exists(storage.join(dataset.path, USERS_FILE)):
        return {user_id: tuple(items[:-HELD_OUT]) for user_id, items in dataset.events().items()}
    found: dict[str, list[str]] = {}
    for example in dataset.examples("train"):
        found.setdefault(example.user_id, list(example.history)).append(example.target)
    for example in dataset.examples("validation"):
        found.setdefault(example.user_id, list(example.history))
    num_found = sum(map(len, found.values()))
    manifest = dataset.manifest
    if "num_interactions" in manifest:
        num_events = manifest["num_interactions"] - HELD_OUT * manifest["num_users"]
        if num_found < num_events:
            logger.warning(
                "%s: holds %s of %s training events; `msrrec prepare` with "
                "data.train_examples_per_user=0 keeps all for systems that learn from them",
                dataset.path,
                f"{num_found:,}",
                f"{num_events:,}",
            )
    return {user_id: tuple(items) for user_id, items in found.items()}
