"""The training purchases of every user."""

from collections.abc import Iterator, Sequence

from msrrec.data.dataset import Dataset
from msrrec.data.leave_one_out import training_part


def training_purchases(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Item ids that each user bought in training, oldest first: all events except held-out ones.

    Training examples may show only the latest of these.

    Raises:
        DataError: If the dataset lacks the users' events.
    """
    return {user_id: tuple(training_part(items)) for user_id, items in dataset.events().items()}


def iter_training_purchases(dataset: Dataset) -> Iterator[Sequence[str]]:
    """The same items, user by user, without holding all users."""
    return (training_part(items) for _, items in dataset.iter_events())
