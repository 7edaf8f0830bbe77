"""Metrics written during a run: JSON lines, and TensorBoard event files on request.

A resumed run first rewrites the metrics of its checkpoint, so no step is missing or appears twice.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from msrrec.training.checkpoint import METRICS, MetricsRow, write_metrics

EVENTS = "tensorboard"


class Live:
    """A writer of metrics into a model's folder during training.

    Args:
        folder: The model's folder.
        rows: Metrics so far.
        tensorboard: Whether to write event files too.
    """

    def __init__(self, folder: Path, rows: list[MetricsRow], *, tensorboard: bool) -> None:
        self._file = folder / METRICS
        write_metrics(str(folder), rows)
        self._num_rows = len(rows)
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # half a second

            shutil.rmtree(folder / EVENTS, ignore_errors=True)
            self._events = SummaryWriter(str(folder / EVENTS), flush_secs=5)
            self._add_events(rows)

    def update(self, rows: list[MetricsRow]) -> None:
        """Write the rows that were not written yet; ``rows`` only grows."""
        new = rows[self._num_rows :]
        if not new:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        self._add_events(new)
        self._num_rows = len(rows)

    def close(self) -> None:
        """Write buffered events."""
        if self._events is not None:
            self._events.close()

    def _add_events(self, rows: Iterable[MetricsRow]) -> None:
        if self._events is None:
            return
        for row in rows:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._events.add_scalar(name, value, row["step"])
