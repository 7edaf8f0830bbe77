"""The training purchases of every user."""

from msrrec.data.dataset import Dataset
from msrrec.data.leave_one_out import training_part


def training_purchases(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Item ids that each user bought in training, oldest first: all events except held-out ones.

    Training examples may show only the latest of these.

    Raises:
        DataError: If the dataset lacks the users' events.
    """
    return {user_id: tuple(training_part(items)) for user_id, items in dataset.events().items()}
